"""Chat messages to the exact text that a model was trained to see."""

from transom.chat.dialogue import Dialogue
from transom.chat.template import Message, Turns

__all__ = ["Dialogue", "Message", "Turns"]
