"""The files of a downloaded model; tensors lie in them until they are used."""

import json
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.files import read_json as read_object

INDEX = "model.safetensors.index.json"
# What a weight may be stored as; masks and quantized weights are of other types.
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object."""
    return read_object(path, "download it again")


class TensorFiles:
    """Memory-mapped tensors by name; those of no floating-point type are their bytes.

    Attributes:
      tensors: {name: array}.
      where: the folder, as errors name it.
    """

    def __init__(self, folder: Path):
        """Opens the *.safetensors files of a folder.

        Where there is an index, it says which files they are: others beside them are stale.

        Raises:
          UserError: naming the file that is missing or broken, or the tensor that two files have.
        """
        self.where = str(folder)
        self.tensors: dict[str, np.ndarray] = {}
        self._maps: list[mmap.mmap] = []
        if (folder / INDEX).is_file():
            self._open_shards(folder)
            return
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise UserError(
                f"{folder} has no *.safetensors file; download the weights in that format."
            )
        for file in files:
            found = self._open(file)
            if twice := sorted(self.tensors.keys() & found.keys()):
                raise UserError(
                    f"{folder}: {file.name} has {twice[0]}, and so has a file before it; remove "
                    f"the file that is stale, or add the model's {INDEX}"
                )
            self.tensors |= found

    def names(self) -> Iterable[str]:
        return self.tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def is_float(self, name: str) -> bool:
        return self.tensors[name].dtype != np.uint8

    def read(self, name: str, index: tuple) -> np.ndarray:
        """A part of a tensor; a view of the file where the index has slices alone."""
        return self.tensors[name][index]

    def forget(self) -> None:
        """Lets go of the parts of the files that were read: they count as this process' memory."""
        for found in self._maps:
            found.madvise(mmap.MADV_DONTNEED)

    def _open_shards(self, folder: Path) -> None:
        """The tensors that the index names, from the files that it names."""
        files = read_json(folder / INDEX).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(x, str) for x in files.values()):
            raise UserError(f"{folder / INDEX} has no weight_map; download it again")
        for file in sorted(set(files.values())):
            found = self._open(folder / file)
            expected = {name for name in files if files[name] == file}
            if wrong := sorted(found.keys() ^ expected):
                raise UserError(
                    f"{folder}: {wrong[0]} is in only one of {file} and {INDEX}; download both "
                    "again"
                )
            self.tensors |= found

    def _open(self, path: Path) -> dict[str, np.ndarray]:
        """The tensors of one file (https://github.com/huggingface/safetensors#format).

        Eight bytes are the length of a JSON header; after it lie the tensors, little-endian and in
        C order. The package's own NumPy reader knows no bfloat16.

        Raises:
          UserError: naming a file that is missing or not whole.
        """
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps.append(mapped)
            data = np.frombuffer(mapped, np.uint8)
            start = 8 + int.from_bytes(data[:8].tobytes(), "little")
            header = json.loads(data[8:start].tobytes())
            header.pop("__metadata__", None)
            return {name: _tensor(data[start:], entry) for name, entry in header.items()}
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; download it") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path} is not a whole safetensors file ({error}); download it again"
            ) from error


def _tensor(data: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end <= data.size:
        raise ValueError(f"it ends before byte {end} of its tensors")
    if entry["dtype"] not in FLOATS:
        return data[begin:end]
    return data[begin:end].view(FLOATS[entry["dtype"]]).reshape(entry["shape"])
