"""Without torch, policies work, and other parts say clearly what to install."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None  # as if not installed
import transom
from transom.policies import ModelShape, kv_bytes_bound
assert str(transom.Sinks(4, window=8)) == "sinks:4,window=8"
assert transom.TokenCorpus.open
assert kv_bytes_bound(transom.Window(8), ModelShape(1, 1, 1, 1)) == 64
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_policies_work_without_torch() -> None:
    result = run(WITHOUT_TORCH)
    assert result.returncode == 0, result.stderr


def test_the_command_line_starts_without_torch() -> None:
    result = run(
        "import sys\n"
        "for name in ('torch', 'transformers', 'jinja2'): sys.modules[name] = None\n"
        "from transom.cli import main\n"
        "main(['policies'])"
    )
    assert result.returncode == 0, result.stderr
    assert "sinks" in result.stdout


@pytest.mark.parametrize("name", ["Context", "BoundedCache"])
def test_parts_that_need_torch_say_what_to_install(name: str) -> None:
    result = run(WITHOUT_TORCH + f"transom.{name}")
    assert "pip install 'transom[torch]'" in result.stderr


def test_importing_loads_no_torch_and_registers_nothing() -> None:
    result = run("import sys, transom; assert 'torch' not in sys.modules")
    assert result.returncode == 0, result.stderr
    result = run(
        "import transom.context\n"
        "from transformers import AttentionInterface\n"
        "assert not [k for k in AttentionInterface._global_mapping if 'transom' in k]"
    )
    assert result.returncode == 0, result.stderr


def test_public_names_exist() -> None:
    import transom

    for name in transom.__all__:
        assert getattr(transom, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Contxt'"):
        transom.Contxt  # noqa: B018


def test_no_test_module_imports_another() -> None:
    """Code that two test modules need is in tests/helpers."""
    tests = Path(__file__).parent
    found = [
        str(path.relative_to(tests))
        for path in tests.rglob("*.py")
        if re.search(r"^\s*(from|import) tests\S* ?(import )?.*\btest_", path.read_text(), re.M)
    ]
    assert not found
