"""What a run was made with: the versions of what it stands on, the processor, and its memory."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "flax", "optax")


def machine() -> dict[str, str | int]:
    """Python's and the packages' versions, the system, the processor and its cores."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
    }


def processor(path: str | Path = "/proc/cpuinfo") -> str:
    """The processor's name, as Linux knows it; elsewhere its family."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def peak_memory_gb() -> float:
    """The most memory that this process has had, in gigabytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


def in_words(machine: Mapping[str, str | int]) -> str:
    """The machine as one line."""
    packages = ", ".join(f"{name} {machine[name]}" for name in PACKAGES)
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['platform']}; "
        f"Python {machine['python']}, {packages}"
    )
