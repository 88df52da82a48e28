"""The key/value cache of a policy, as a true transformers cache."""

from transom.kv.cache import BoundedCache

__all__ = ["BoundedCache"]
