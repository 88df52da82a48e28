"""Chat messages, rendered as the exact text that a model was trained on."""

from transom.chat.dialogue import Dialogue
from transom.chat.template import Message, Turns

__all__ = ["Dialogue", "Message", "Turns"]
