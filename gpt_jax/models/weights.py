"""Pretrained weights from elsewhere: looked at first, then read straight to where they are used.

pretrained = open_pretrained("hf:HuggingFaceTB/SmolLM2-135M-Instruct")
params = pretrained.load(mesh, "bfloat16")
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Params
from gpt_jax.models.foreign import assemble
from gpt_jax.models.foreign.assemble import Dtype, Source
from gpt_jax.models.foreign.configs import config_from_hf
from gpt_jax.models.foreign.export import HEAD_BIAS
from gpt_jax.models.foreign.gguf_file import gguf_entries, open_gguf
from gpt_jax.models.foreign.hub import download
from gpt_jax.models.foreign.peft import CONFIG, WEIGHTS, Peft, load_adapters, open_peft
from gpt_jax.models.foreign.safetensors import TensorFiles, read_json
from gpt_jax.models.foreign.tensors import SCORE, TABLES, Entry, entries
from gpt_jax.models.heads import axes_of
from gpt_jax.models.lora import attach, merge
from gpt_jax.models.quantized import keep_as

SCORER = "ForSequenceClassification"  # how the names of their classes of reward models end


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A model from elsewhere whose files were looked at; its weights still lie in them.

    Attributes:
      config: of the model, or of a scorer's backbone.
      is_scorer: whether it is a reward model.
      folder_or_file: where its tokenizer lies, too: a folder, or a GGUF file.
      kind: the family, as config.json's `model_type` calls it.
      head_bias: of a scorer.
    """

    config: ModelConfig
    is_scorer: bool
    folder_or_file: Path
    kind: str
    head_bias: float
    _source: Source
    _entries: dict[str, Entry]
    _peft: Peft | None = None

    @property
    def files(self) -> list[Path]:
        """In which its weights lie."""
        where = Path(self._source.where)
        found = [where] if where.is_file() else sorted(where.glob("*.safetensors"))
        return found + ([self._peft.folder / WEIGHTS] if self._peft else [])

    def load(self, mesh: Mesh | None = None, dtype: Dtype = "float32") -> Params:
        """The parameters, on the default device or over a mesh.

        Each process reads what its own devices hold, a slice of a parameter at a time.

        Args:
          mesh: over which they are split as `parallel/rules.py` says; None: no mesh.
          dtype: "float32", "bfloat16", or for what is frozen "int8" or "int4" (`quantized.py`
            states the error; their axes are `quantized_axes`). A scorer's head is float32.

        Returns:
          A language model's parameters, or a scorer's, `{"backbone": ..., "head": ...}`.

        Raises:
          UserError: if the mesh does not divide a parameter or its blocks.
        """
        load = functools.partial(assemble.load, self._source, self._entries, self.config, mesh)
        if self._peft:
            adapters = load_adapters(self._peft, self.config, self.kind)
            plain = merge(attach(load("float32"), *adapters))
            return keep_as(plain, axes_of(self.config), None if dtype == "float32" else dtype)
        params = load(dtype)
        if not self.is_scorer:
            return params
        kernel_D = np.float32(self._source.read(SCORE, (0, slice(None))))
        head = {"kernel_D": kernel_D, "bias": np.float32(self.head_bias)}
        whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        head = {name: _whole(x, whole) for name, x in head.items()}
        return {"backbone": params, "head": head}


def _whole(x: Any, place: NamedSharding | None) -> jax.Array:
    if place is None:
        return jnp.array(x)
    return jax.make_array_from_callback(np.shape(x), place, lambda index: np.asarray(x)[index])


def open_pretrained(where: str | Path) -> Pretrained:
    """Looks at a model from elsewhere; no weight is read but a tied unembedding's.

    Args:
      where: a folder in Hugging Face's layout (config.json, *.safetensors), or in peft's
        (adapter_config.json), whose adapters become part of the model that it names;
        `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`, which is downloaded; or `gguf:FILE`.

    Raises:
      UserError: naming the file, key or tensor that is missing, cannot be expressed or would be
        left unused, or the package to install.
    """
    where = str(where)
    if where.startswith("gguf:"):
        return _open_gguf(Path(where.removeprefix("gguf:")).expanduser())
    if where.startswith("hf:"):
        return _open_folder(download(where.removeprefix("hf:")))
    return _open_folder(Path(where).expanduser())


def _open_folder(folder: Path) -> Pretrained:
    if (folder / CONFIG).is_file() and not (folder / "config.json").is_file():
        peft = open_peft(folder)
        base = open_pretrained(peft.base)
        if base.is_scorer:
            raise UserError(f"{folder}: its adapters are on a reward model; merge them with peft")
        own = (folder / "tokenizer.json").is_file()
        return dataclasses.replace(
            base, folder_or_file=folder if own else base.folder_or_file, _peft=peft
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; give the folder of a downloaded model.")
    theirs = read_json(folder / "config.json")
    head_bias = theirs.pop(HEAD_BIAS, 0.0)
    if not isinstance(head_bias, (int, float)) or not np.isfinite(head_bias):
        raise UserError(f"{folder / 'config.json'}: {HEAD_BIAS} is {head_bias!r}, not a number")
    config = config_from_hf(theirs, str(folder / "config.json"))
    source = TensorFiles(folder)
    names, kind = set(source.names()), theirs["model_type"]
    classes = theirs.get("architectures") or [""]
    is_scorer = SCORE in names or str(classes[0]).endswith(SCORER)
    table = TABLES[kind]
    if is_scorer and table.head + ".weight" not in names:
        # A score needs no unembedding, and theirs have none.
        config = dataclasses.replace(config, tied=True)
    embedding = table.whole["embed/tokens"] + ".weight"
    prefix = "" if embedding in names else table.prefix
    found = entries(table, config, prefix)
    tied = table.head + ".weight" if config.tied else None
    assemble.check(source, found, config, tied, is_scorer)
    return Pretrained(config, is_scorer, folder, kind, float(head_bias), source, found)


def _open_gguf(path: Path) -> Pretrained:
    source, theirs = open_gguf(path)
    config, kind = config_from_hf(theirs, str(path)), theirs["model_type"]
    found = gguf_entries(config, kind)
    assemble.check(source, found, config, None, False)
    return Pretrained(config, False, path, kind, 0.0, source, found)
