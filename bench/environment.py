"""Where and with what a result was measured."""

import datetime
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "triton", "numpy", "scikit-learn")
SOURCES = ("bench/*.py", "csrc", "mixnorm_cuda", "setup.py", "CMakeLists.txt")
"""What a measurement depends on: changes elsewhere do not make a commit dirty."""


def describe(device: torch.device, commit: str | None = None) -> dict[str, Any]:
    """Device, driver, versions, commit and date. ``commit`` stands in where git is not at hand."""
    from mixnorm_cuda import build_info

    info: dict[str, Any] = {
        "device_type": device.type,
        "device": device_name(device),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": git_commit() or commit or "unknown",
        "python": platform.python_version(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "backends": build_info()["backends"],
    }
    info["versions"] = {name: _version(name) for name in ("mixnorm_cuda", *PACKAGES)}
    if device.type == "cuda":
        p = torch.cuda.get_device_properties(device)
        info |= {
            "driver": driver_version(),
            "cuda": torch.version.cuda,
            "capability": f"sm_{p.major}{p.minor}",
            "memory_gib": round(p.total_memory / 2**30),
        }
    else:
        info["capability"] = torch.backends.cpu.get_cpu_capability()
    return info


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        model = next((v.strip() for k, _, v in fields if k.strip() == "model name"), model)
    return f"{model}, {os.cpu_count()} cores"


def driver_version() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown (no nvidia-smi)"
    output = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return output.splitlines()[0].strip() if output else "unknown"


def git_commit() -> str | None:
    """Short hash of the checkout, ``+`` appended when a source differs; None without git."""
    if shutil.which("git") is None:
        return None
    commit = _output("git", "-C", str(REPOSITORY), "rev-parse", "--short=10", "HEAD")
    if not commit:
        return None
    changed = _output("git", "-C", str(REPOSITORY), "status", "--porcelain", "--", *SOURCES)
    return commit.strip() + ("+" if changed and changed.strip() else "")


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
