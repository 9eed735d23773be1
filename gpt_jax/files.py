"""Writing small files so that a run that is killed, or a disk that is full, breaks none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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
