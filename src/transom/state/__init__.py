"""A context in a file: what it was made for, what it holds, and that nothing in it has changed."""

from transom.state.file import read_state, remove_leftovers, write_state
from transom.state.fingerprint import differences, fingerprint

__all__ = ["differences", "fingerprint", "read_state", "remove_leftovers", "write_state"]
