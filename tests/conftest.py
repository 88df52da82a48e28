"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import pytest

from transom.models import Loaded, load


@pytest.fixture(scope="session")
def smollm2() -> Loaded:
    """The real SmolLM2-135M-Instruct in float32; for tests marked `model`. Not to be changed."""
    return load("smollm2")
