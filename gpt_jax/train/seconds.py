"""`seconds.json`: how long each stage of a whole run took."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gpt_jax import files
from gpt_jax.parallel import distributed
from gpt_jax.train.host import return_freed_memory

Result = TypeVar("Result")


def timed(folder: Path, name: str, stage: Callable[[], Result]) -> Result:
    """Runs a stage and adds its seconds to those it had before it was stopped, if it was.

    Args:
      folder: of the whole run.
      name: of the stage.
      stage: runs it.
    """
    started = time.monotonic()
    result = stage()
    return_freed_memory()
    seconds = seconds_of(folder)
    seconds[name] = seconds.get(name, 0.0) + round(time.monotonic() - started, 1)
    if distributed.is_main():
        files.write_text(folder / "seconds.json", json.dumps(seconds))
    return result


def seconds_of(folder: Path) -> dict[str, float]:
    """What the stages have taken so far."""
    path = folder / "seconds.json"
    return files.read_json(path, "remove it and run again") if path.is_file() else {}
