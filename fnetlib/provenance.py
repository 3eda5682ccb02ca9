"""Where a number came from: versions, hardware, and the code that made it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import os
import platform
import subprocess
import tarfile
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from .records import Code

PACKAGES = ("torch", "transformers", "datasets", "evaluate", "accelerate", "numpy", "scikit-learn", "scipy")


def now() -> str:
    """The time in UTC, ISO 8601, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def find_root() -> Path:
    """The project's root: FNETLIB_ROOT, else the checkout this package runs from, else the working directory."""
    if os.environ.get("FNETLIB_ROOT"):
        return Path(os.environ["FNETLIB_ROOT"]).resolve()
    for folder in (Path(__file__).resolve().parents[1], Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return Path.cwd()


def environment(device: str, precision: str, compiled: bool = False) -> dict[str, Any]:
    """Versions, device and driver, as a record's `env`."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    info: dict[str, Any] = {
        "versions": versions, "device": device, "device_name": _cpu_name(),
        "driver": None, "cpu_count": os.cpu_count(), "threads": torch.get_num_threads(),
        "precision": precision, "tf32": _tf32(), "compile": compiled,
    }
    if device.startswith("cuda"):
        info["device_name"] = torch.cuda.get_device_name(device)
        info["driver"] = _driver()
        info["cuda"] = torch.version.cuda
    return info


def _tf32() -> bool:
    """Whether fp32 matrix products use TF32. torch refuses its old flag where a library has set the new one."""
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


def _cpu_name() -> str:
    """The processor's model name where the system tells (Linux), else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _driver() -> str | None:
    try:
        out = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )
        return out.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


@functools.cache
def code() -> Code:
    """The commit from git; where there is no git (a container), from FNETLIB_COMMIT, else `unknown`.

    An installed copy is looked up in the checkout that one works in, if that has the same files. `source` hashes the
    package's own files, so that a record can be matched to its code without git too.
    """
    own = Path(__file__).parent
    for root in (own.parent, find_root()):
        if (root / "pyproject.toml").is_file() and source_hash(root / "fnetlib") == source_hash(own):
            if commit := _git(root, "rev-parse", "HEAD"):
                return Code(commit=commit, dirty=committed_source(root, commit) != source_hash(own),
                            source=source_hash(own))
    return Code(commit=os.environ.get("FNETLIB_COMMIT", "unknown"), dirty=None, source=source_hash(own))


def _git(root: Path, *args: str) -> str | None:
    try:
        out = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip()


def committed_source(root: Path, commit: str) -> str | None:
    """The source hash of a commit's package: read from the commit itself, since an index can be out of date."""
    try:
        packed = subprocess.run(["git", "-C", str(root), "archive", commit, "fnetlib"], capture_output=True,
                                timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        # the filter came with Python 3.11.4
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        return source_hash(Path(folder) / "fnetlib")


@functools.cache
def source_hash(package: Path = Path(__file__).parent) -> str:
    """sha256 (16 hex digits) over a package folder's .py files, names included."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
