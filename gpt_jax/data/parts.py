"""One part of a store, while it is written; see `store` for its files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpt_jax.data import store


class Part:
    """The files of one part while they are written, under names that end in .partial.

    Args:
      folder: of the store.
      number: of the part, from 0.
      dtype: of the tokens.
    """

    def __init__(self, folder: Path, number: int, dtype: str):
        self._folder, self._number, self._dtype = folder, number, store.TYPES[dtype]
        self._counts = {"train": [0, 0], "test": [0, 0]}
        names = [f"{name}.{kind}" for name in self._counts for kind in ("tokens", "documents")]
        self._files = {name: _Summed(self._path(name)) for name in (*names, "test.draws")}

    @property
    def tokens(self) -> int:
        """How many there are to train on."""
        return self._counts["train"][0]

    def _path(self, name: str) -> Path:
        return self._folder / f"{self._number:05}.{name}"

    def add(self, encoded: list[np.ndarray], draws: list[float | None]) -> int:
        """Writes documents; returns how many tokens they have."""
        total = 0
        for name in self._counts:
            some = [
                ids
                for ids, draw in zip(encoded, draws, strict=True)
                if (draw is None) == (name == "train")
            ]
            if not some:
                continue
            ends = self._counts[name][0] + np.cumsum([len(ids) for ids in some])
            self._files[f"{name}.tokens"].write(np.concatenate(some).astype(self._dtype))
            self._files[f"{name}.documents"].write(ends.astype("<i8"))
            self._counts[name][0] = int(ends[-1])
            self._counts[name][1] += len(some)
            total += sum(len(ids) for ids in some)
        found = [draw for draw in draws if draw is not None]
        self._files["test.draws"].write(np.array(found, "<f8"))
        return total

    def close(self) -> dict:
        """Gives the files their names; returns what store.json says of the part."""
        sums = {self._path(name).name: file.close() for name, file in self._files.items()}
        return {**self._counts, "files": sums}


class _Summed:
    """A file that is summed up as it is written."""

    def __init__(self, path: Path):
        self._path, self._partial = path, path.with_name(path.name + ".partial")
        self._file: BinaryIO = open(self._partial, "wb")  # noqa: SIM115 (closed by `close`)
        self._digest, self._size = hashlib.sha256(), 0

    def write(self, array: np.ndarray) -> None:
        data = array.tobytes()
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def close(self) -> tuple[int, str]:
        """(bytes, checksum) of the file, which is now on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self._path)
        return self._size, self._digest.hexdigest()
