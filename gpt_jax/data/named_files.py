"""Which files a spec names: paths joined by commas, each perhaps a pattern such as wiki/*.jsonl."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from gpt_jax.errors import UserError


def paths(spec: str) -> list[Path]:
    """The files of a source; a name may hold a comma, or the marks of a pattern.

    Raises:
      UserError: a pattern names no file, or a link in its folder that leads out of it.
    """
    pieces = [spec] if os.path.exists(spec) else spec.split(",")
    return [path for piece in pieces for path in _expanded(piece)]


def _expanded(piece: str) -> list[Path]:
    if os.path.exists(piece) or not glob.has_magic(piece):
        return [Path(piece)]
    try:
        names = glob.glob(piece, recursive=True)
    except (OSError, ValueError, re.error) as error:
        raise UserError(f"{piece}: this is no pattern ({error}); mend it.") from error
    found = [Path(name) for name in sorted(names) if not os.path.isdir(name)]
    if not found:
        raise UserError(f"{piece}: no file is named like that; check the pattern.")
    folder = _folder_of(piece)
    for path in found:
        # Where links lead was chosen by whoever made the folder, not by whoever wrote the pattern.
        target = os.path.realpath(path)
        if not Path(target).is_relative_to(folder):
            raise UserError(
                f"{path}: this link leads out of {folder.name or folder}, to {target}; remove it, "
                "or name what it leads to."
            )
    return found


def _folder_of(pattern: str) -> Path:
    """The folder in front of the first mark, with its own links followed."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(os.path.realpath(Path(*parts[:fixed])))
