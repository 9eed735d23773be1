"""Libraries that not everybody needs: imported when they are, and named where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from gpt_jax.errors import UserError


def extra(module: str, purpose: str) -> ModuleType:
    """A module of one of the extras in setup.py.

    Args:
      module: its name, which is also that of its package.
      purpose: what it is for, as the beginning of a sentence: "a.parquet is read".

    Raises:
      UserError: with the pip command, if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{purpose} with the package `{module}`, which is not installed ({error}); run: "
            f'pip install "{module}"'
        ) from error
