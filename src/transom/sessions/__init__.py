"""A conversation with a model: asked, answered, undone, and kept in a file. Knows no terminal."""

from transom.sessions.conversation import Conversation, Reply, Turn
from transom.sessions.session_file import SessionFile

__all__ = ["Conversation", "Reply", "SessionFile", "Turn"]
