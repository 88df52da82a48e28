"""Chat messages to the exact text that a model was trained to see."""

from transom.chat.turns import Message, Turns

__all__ = ["Message", "Turns"]
