"""llama.cpp's files: a configuration and tensors, most of them in blocks of 4 to 8 bits.

The `gguf` package reads and dequantizes them; tensors lie in the file until they are used, and a
part of one is dequantized row by row. llama.cpp's rotary positions pair neighbouring dimensions,
so that it stores the rows of Llama's queries and keys in another order, which is undone here.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.foreign.tensors import GGUF, Entry, entries
from gpt_jax.models.positions import scaled_frequencies

# Their architecture -> the family that computes the same.
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
# Their key behind the name of the architecture -> that of config.json.
KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
    "rope.freq_base_swa": "rope_local_base_freq",
    "vocab_size": "vocab_size",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
# Keys that say again what others say, or whose value is checked below.
CHECKED = {"attention.value_length", "rope.dimension_count", "rope.scaling.type"}
CHECKED |= {"rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned"}
ROPE_FACTORS = "rope_freqs.weight"


class GgufFile:
    """The tensors of a file by name, dequantized where they are read.

    Attributes:
      where: the file, as errors name it.
      metadata: its keys and values, but for the tokenizer's.
    """

    def __init__(self, path: Path):
        """Opens a file.

        Raises:
          UserError: if the package is missing, or the file is not whole.
        """
        try:
            import gguf
        except ImportError as error:
            raise UserError(
                "GGUF files are read by the gguf package; pip install 'gpt_jax[pretrained]'"
            ) from error
        self.where = str(path)
        if not path.is_file():
            raise UserError(f"{path} is missing; give the path of a .gguf file")
        try:
            reader = gguf.GGUFReader(path)
        # The package raises whatever comes first: index, overflow, decoding, memory.
        except Exception as error:
            raise UserError(
                f"{path} is not a whole GGUF file ({error}); download it again"
            ) from error
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._dequantize = gguf.quants.dequantize
        self.metadata = {
            name: field.contents()
            for name, field in reader.fields.items()
            if not name.startswith("tokenizer.")
        }

    def names(self) -> Iterable[str]:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def is_float(self, name: str) -> bool:
        return True

    def read(self, name: str, index: tuple) -> np.ndarray:
        """A part of a tensor in float32; its rows are dequantized whole."""
        tensor, (rows, *columns) = self._tensors[name], index
        if tensor.data.ndim == 1:
            return self._dequantize(tensor.data, tensor.tensor_type)[index]
        try:
            whole = self._dequantize(np.ascontiguousarray(tensor.data[rows]), tensor.tensor_type)
        except NotImplementedError as error:
            raise UserError(
                f"{self.where}: the tensor {name} is of the type {tensor.tensor_type.name}, which "
                "the gguf package cannot dequantize; take a file in another quantization"
            ) from error
        return whole[(slice(None), *columns)]

    def forget(self) -> None:
        """The package's maps stay as they are: a file is small."""


def open_gguf(path: Path) -> tuple[GgufFile, dict[str, Any]]:
    """A file, and the config.json that describes its model.

    Raises:
      UserError: naming the architecture or the key that cannot be expressed.
    """
    file = GgufFile(path)
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{path}: general.architecture is {architecture!r}, which cannot be loaded; "
            f"{', '.join(ARCHITECTURES)} can be"
        )
    kind = ARCHITECTURES[architecture]
    own = {
        key.removeprefix(f"{architecture}."): value
        for key, value in file.metadata.items()
        if key.startswith(f"{architecture}.")
    }
    for key in own:
        if key not in KEYS and key not in CHECKED:
            raise UserError(f"{path}: the key {architecture}.{key} cannot be expressed")
    theirs: dict[str, Any] = {"model_type": kind, "tie_word_embeddings": True}
    theirs |= {KEYS[key]: value for key, value in own.items() if key in KEYS}
    names = set(file.names())
    if "token_embd.weight" not in names:
        raise UserError(f"{path} has no tensor token_embd.weight; download it again")
    theirs["vocab_size"] = file.shape("token_embd.weight")[0]
    theirs["tie_word_embeddings"] = "output.weight" not in names
    _add_what_is_not_said(theirs, kind)
    _check_heads(theirs, own, path)
    scaling = own.get("rope.scaling.type", "none")
    if scaling == "linear":
        theirs["rope_scaling"] = dict(rope_type="linear", factor=own["rope.scaling.factor"])
    elif scaling != "none":
        raise UserError(
            f"{path}: {architecture}.rope.scaling.type is {scaling!r}, which cannot be loaded; "
            "none and linear can be"
        )
    if ROPE_FACTORS in names:
        theirs["rope_scaling"] = _llama3_scaling(file, theirs)
    return file, theirs


def _add_what_is_not_said(theirs: dict[str, Any], kind: str) -> None:
    """What llama.cpp knows of an architecture and its files do not say."""
    if kind in ("gemma2", "gemma3_text"):
        head, layers = theirs["head_dim"], theirs["num_hidden_layers"]
        # The 27B models alone scale by the width over the heads (144 and 168).
        if (kind, layers) in (("gemma2", 46), ("gemma3_text", 62)):
            head = theirs["hidden_size"] // theirs["num_attention_heads"]
        theirs["query_pre_attn_scalar"] = head
    if kind == "gemma3_text":
        theirs.setdefault("rope_theta", 1e6)


def _check_heads(theirs: dict[str, Any], own: dict[str, Any], path: Path) -> None:
    """Keys that could say something else than those beside them, and do not in what we read."""
    follows = theirs["hidden_size"] // theirs["num_attention_heads"]
    head = theirs.setdefault("head_dim", own.get("rope.dimension_count", follows))
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.get(key, head) != head:
            raise UserError(
                f"{path}: {key} is {own[key]}, but only the size of a head, {head}, can"
            )


def _llama3_scaling(file: GgufFile, theirs: dict[str, Any]) -> dict[str, Any]:
    """Llama 3's scaling of rotary frequencies, which the file has as their divisors alone."""
    divisors = file.read(ROPE_FACTORS, (slice(None),))
    fields: dict[str, Any] = dict(
        rope_type="llama3",
        factor=round(float(divisors.max()), 4),
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    config = ModelConfig(
        *(2, 2, theirs["hidden_size"], 1, theirs["num_attention_heads"]),
        head_size=theirs["head_dim"],
        positions="rope",
        rope_theta=theirs["rope_theta"],
        rope_scaling="llama3",
        rope_divisor=fields["factor"],
        rope_original_context=8192,
    )
    plain = config.rope_theta ** -(np.arange(0, config.rotated, 2) / config.rotated)
    if not np.allclose(plain / scaled_frequencies(config), divisors, rtol=1e-3):
        raise UserError(
            f"{file.where}: {ROPE_FACTORS} are not those of Llama 3.1 to 3.3, the only ones that "
            "can be loaded"
        )
    return fields


def gguf_entries(config: ModelConfig, kind: str) -> dict[str, Entry]:
    """Where every parameter lies in a file of this family."""
    found = entries(GGUF, config)
    if kind == "llama":
        c = config.resolved()
        for name, heads in (("q", c.heads), ("k", c.kv_heads)):
            path = f"blocks/attn/{name}"
            found[path] = found[path]._replace(pick=_unpaired(heads, c.head_size))
    return found


def _unpaired(heads: int, head_size: int) -> np.ndarray:
    """Rows in the order in which dimension i turns with i + H/2, where theirs turns with i + 1."""
    rows_NIP = np.arange(heads * head_size).reshape(heads, head_size // 2, 2)
    return rows_NIP.swapaxes(1, 2).ravel()
