"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

from transom.models import Loaded, load

# What helpers assert is reported as in a test.
pytest.register_assert_rewrite("tests.helpers")

# The machines are noisy; what is to be fast is measured by benchmarks.
settings.register_profile("transom", deadline=None)
settings.load_profile("transom")

# A shell without job control starts what runs in the background with interrupts ignored, and every
# process below it would ignore the Ctrl-C of tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smollm2() -> Loaded:
    """The real SmolLM2-135M-Instruct in float32; for tests marked `model`. Not to be changed."""
    return load("smollm2")
