"""Attention under a policy: who sees whom, the fast path, the slow reference, the model glue."""
