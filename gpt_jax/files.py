"""Small files: written so that a killed run or a full disk breaks none, and read as one object."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from gpt_jax.errors import UserError


def cache_folder() -> Path:
    """Where this package keeps what it can make again: `$XDG_CACHE_HOME/gpt_jax`."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt_jax"
    except RuntimeError:  # this user has no home, as in a container
        return spare_folder()


def spare_folder() -> Path:
    """Where it keeps this if the cache folder cannot be written."""
    return Path(tempfile.gettempdir()) / f"gpt_jax-{os.getuid()}"


def read_json(path: str | Path, mend: str) -> dict[str, Any]:
    """The one JSON object that a file holds.

    Args:
      path: of the file.
      mend: what to do if it is missing or damaged, as the end of a sentence.

    Raises:
      UserError: naming the file.
    """
    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:  # of text that is no UTF-8 a ValueError
        raise UserError(f"{path} is damaged ({error}); {mend}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it is not a JSON object); {mend}")
    return found


def write_text(path: str | Path, text: str) -> None:
    """Puts `text` in the place of the file in one move; on an error the old file stays.

    Raises:
      UserError: naming the file, if it cannot be written.
    """
    partial = Path(path).with_name(Path(path).name + ".partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: str | Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: cannot be written ({error.strerror}); make room or choose another folder, then "
        "run the same command again"
    )
