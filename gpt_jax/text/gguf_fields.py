"""The keys and values in front of a GGUF file's tensors.

The `gguf` package reads these as views of a mapped file, one for each of a vocabulary's hundred
thousand strings, which takes seconds; read in a row they take a fraction of one.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from gpt_jax.errors import UserError

MEND = "fetch it again"
_STRING, _ARRAY = 8, 9
_SCALARS = {  # struct's letters by the format's numbers for types
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


def read_fields(path: str | Path) -> dict[str, Any]:
    """{key: value} of a GGUF file of version 2 or 3; the tensors are not looked at.

    Raises:
      UserError: naming the file, if it is none or ends too early.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).fields()
    except (OSError, ValueError, struct.error, RecursionError, OverflowError) as error:
        raise UserError(f"{path} is damaged, or no GGUF file ({error}); {MEND}") from error


class _Reader:
    """Reads on from where it last stopped."""

    def __init__(self, data: mmap.mmap):
        self._data, self._at = data, 0

    def fields(self) -> dict[str, Any]:
        if self._bytes(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        (version,) = self._scalars("I", 1)
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, not 2 or 3")
        _, count = self._scalars("Q", 2)
        return {self._string(): self._value(*self._scalars("I", 1)) for _ in range(count)}

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._scalars(_SCALARS[kind], 1)[0]
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ValueError(f"a value has the unknown type {kind}")
        (kind,) = self._scalars("I", 1)
        (count,) = self._scalars("Q", 1)
        if kind in _SCALARS:
            return list(self._scalars(_SCALARS[kind], count))
        return [self._value(kind) for _ in range(count)]

    def _scalars(self, letter: str, count: int) -> tuple:
        return struct.unpack(f"<{count}{letter}", self._bytes(count * struct.calcsize(letter)))

    def _string(self) -> str:
        (size,) = self._scalars("Q", 1)
        return self._bytes(size).decode()

    def _bytes(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise ValueError("it ends too early")
        self._at += size
        return found
