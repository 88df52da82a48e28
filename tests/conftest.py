"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

from transom.models import Loaded, load

# Asserts in helpers are reported like those in tests.
pytest.register_assert_rewrite("tests.helpers")

# Machines are noisy, so tests have no deadline. Benchmarks measure speed.
settings.register_profile("transom", deadline=None)
settings.load_profile("transom")

# A shell without job control starts background jobs with interrupts ignored. Every process that the
# tests start would inherit that, and ignore their Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # and nohup ignores this one
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def smollm2() -> Loaded:
    """The real SmolLM2-135M-Instruct in float32; for tests marked `model`. Not to be changed."""
    return load("smollm2")
