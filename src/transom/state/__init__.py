"""A context in a file: what it holds, which model it belongs to, and a checksum of it all."""

from transom.state.file import read_state, remove_leftovers, write_state
from transom.state.fingerprint import differences, fingerprint

__all__ = ["differences", "fingerprint", "read_state", "remove_leftovers", "write_state"]
