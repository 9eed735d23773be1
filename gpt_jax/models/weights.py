"""Import and export: our parameters <-> Hugging Face state dicts of GPT-2, Llama, Qwen3, Gemma 3.

A state dict is `dict[str, np.ndarray]`, in float32 where it is ours. GPT-2 stores kernels as we do,
[in, out], with q, k and v side by side; the others store them [out, in]. All pair rotary dimension
i with i + H/2. Gemma stores the scale of a norm minus 1.
"""

import functools
import operator
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Params, param_shapes
from gpt_jax.models.foreign_config import config_from_hf
from gpt_jax.models.foreign_files import read_json, read_tensors

StateDict = dict[str, np.ndarray]

# Our path inside a block -> their name inside a layer.
GPT2_BLOCK = {
    ("attn_norm", "scale"): "ln_1.weight",
    ("attn_norm", "bias"): "ln_1.bias",
    ("attn", "out"): "attn.c_proj.weight",
    ("attn", "out_bias"): "attn.c_proj.bias",
    ("mlp_norm", "scale"): "ln_2.weight",
    ("mlp_norm", "bias"): "ln_2.bias",
    ("mlp", "up"): "mlp.c_fc.weight",
    ("mlp", "up_bias"): "mlp.c_fc.bias",
    ("mlp", "down"): "mlp.c_proj.weight",
    ("mlp", "down_bias"): "mlp.c_proj.bias",
}
LLAMA_BLOCK = {
    ("attn_norm", "scale"): "input_layernorm.weight",
    ("attn", "q"): "self_attn.q_proj.weight",
    ("attn", "k"): "self_attn.k_proj.weight",
    ("attn", "v"): "self_attn.v_proj.weight",
    ("attn", "out"): "self_attn.o_proj.weight",
    ("mlp_norm", "scale"): "post_attention_layernorm.weight",
    ("mlp", "gate"): "mlp.gate_proj.weight",
    ("mlp", "up"): "mlp.up_proj.weight",
    ("mlp", "down"): "mlp.down_proj.weight",
}
QK_NORMS = {
    ("attn", "q_norm", "scale"): "self_attn.q_norm.weight",
    ("attn", "k_norm", "scale"): "self_attn.k_norm.weight",
}
# Where Gemma's names differ: Llama's post_attention_layernorm is not after its attention.
GEMMA3_NORMS = {
    ("attn_out_norm", "scale"): "post_attention_layernorm.weight",
    ("mlp_norm", "scale"): "pre_feedforward_layernorm.weight",
    ("mlp_out_norm", "scale"): "post_feedforward_layernorm.weight",
}


# Tensors that some files have beside the parameters, with the reason why they are not needed.
HARMLESS = {
    r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias": "the causal mask, and what hides a score",
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "follows from rope_theta",
}


class Tensors:
    """A state dict whose tensors are taken one by one, until none is left."""

    def __init__(self, state_dict: StateDict):
        self.left = dict(state_dict)

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """One tensor in float32; a UserError if it is missing or of another kind or shape."""
        if name not in self.left:
            raise UserError(
                f"The state dict has no tensor {name}; is it of another architecture or depth?"
            )
        array = np.asarray(self.left.pop(name))
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"The tensor {name} is not of floating point; is it quantized?")
        if array.shape != shape:
            raise UserError(
                f"The tensor {name} is {array.shape}, but by its configuration it is {shape}."
            )
        return array.astype(np.float32)

    def take_tied(self, name: str, embedding_VD: np.ndarray) -> None:
        """Takes an unembedding, if there is one, that has to be the embedding."""
        if name not in self.left:
            return
        if not np.array_equal(self.take(name, embedding_VD.shape), embedding_VD):
            raise UserError(
                f"The tensor {name} differs from the embedding, which its configuration uses in "
                "its place; set tie_word_embeddings to false to use it."
            )

    def finish(self) -> None:
        """Refuses a tensor that nobody took."""
        for name in self.left:
            if not any(re.fullmatch(pattern, name) for pattern in HARMLESS):
                raise UserError(
                    f"The tensor {name} is not used by the model that its configuration "
                    "describes; is it of another architecture or depth?"
                )


def from_gpt2(state_dict: StateDict, config: ModelConfig) -> Params:
    """The parameters of a GPT-2 state dict, with or without the "transformer." prefix.

    Raises:
      UserError: naming the first tensor that is missing, of another shape, or not used.
    """
    tensors, shapes = Tensors(state_dict), param_shapes(config)
    prefix = "transformer." if "transformer.wte.weight" in state_dict else ""
    blocks: dict[str, Any] = {"attn_norm": {}, "attn": {}, "mlp_norm": {}, "mlp": {}}

    def stacked(name: str, shape: tuple[int, ...]) -> np.ndarray:
        layers = range(config.layers)
        return np.stack([tensors.take(f"{prefix}h.{layer}.{name}", shape) for layer in layers])

    for (part, name), theirs in GPT2_BLOCK.items():
        blocks[part][name] = stacked(theirs, shapes["blocks"][part][name].shape[1:])
    for suffix, theirs in (("", "attn.c_attn.weight"), ("_bias", "attn.c_attn.bias")):
        *inputs, outputs = shapes["blocks"]["attn"]["q" + suffix].shape[1:]
        thirds = np.split(stacked(theirs, (*inputs, 3 * outputs)), 3, axis=-1)
        for name, third in zip("qkv", thirds, strict=True):
            blocks["attn"][name + suffix] = third

    def whole(name: str, *path: str) -> np.ndarray:
        return tensors.take(name, functools.reduce(operator.getitem, path, shapes).shape)

    params = {
        "embed": {
            "tokens": whole(f"{prefix}wte.weight", "embed", "tokens"),
            "positions": whole(f"{prefix}wpe.weight", "embed", "positions"),
        },
        "blocks": blocks,
        "final_norm": {
            "scale": whole(f"{prefix}ln_f.weight", "final_norm", "scale"),
            "bias": whole(f"{prefix}ln_f.bias", "final_norm", "bias"),
        },
    }
    return _finished(params, tensors, config)


def to_gpt2(params: Params, config: ModelConfig) -> StateDict:
    """The inverse of `from_gpt2`, with the "transformer." prefix."""
    state = {
        "wte.weight": params["embed"]["tokens"],
        "wpe.weight": params["embed"]["positions"],
        "ln_f.weight": params["final_norm"]["scale"],
        "ln_f.bias": params["final_norm"]["bias"],
    }
    unembed = {} if config.tied else {"lm_head.weight": params["unembed"]["kernel"].T}
    attn = params["blocks"]["attn"]
    for layer in range(config.layers):
        for (part, name), theirs in GPT2_BLOCK.items():
            state[f"h.{layer}.{theirs}"] = params["blocks"][part][name][layer]
        for suffix, theirs in (("", "weight"), ("_bias", "bias")):
            thirds = [np.asarray(attn[name + suffix][layer]) for name in "qkv"]
            state[f"h.{layer}.attn.c_attn.{theirs}"] = np.concatenate(thirds, axis=-1)
    state = {f"transformer.{name}": array for name, array in state.items()} | unembed
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def from_llama(state_dict: StateDict, config: ModelConfig) -> Params:
    """The parameters of a Llama, Qwen3 or Gemma 3 state dict.

    Raises:
      UserError: naming the first tensor that is missing, of another shape, or not used.
    """
    tensors, shapes = Tensors(state_dict), param_shapes(config)
    blocks: dict[str, Any] = {}
    for (*parents, name), theirs in _block_names(config).items():
        shape = functools.reduce(operator.getitem, (*parents, name), shapes["blocks"]).shape
        arrays = [
            tensors.take(f"model.layers.{layer}.{theirs}", shape[:0:-1])
            for layer in range(config.layers)
        ]
        place = blocks
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = np.stack([array.T for array in arrays])  # A norm's .T is itself.
        if name == "scale":
            place[name] += _norm_offset(config)
    scale = tensors.take("model.norm.weight", (config.width,)) + _norm_offset(config)
    embedding = tensors.take("model.embed_tokens.weight", (config.vocab_size, config.width))
    params = {"embed": {"tokens": embedding}, "blocks": blocks, "final_norm": {"scale": scale}}
    return _finished(params, tensors, config)


def _finished(params: Params, tensors: Tensors, config: ModelConfig) -> Params:
    """The parameters with the unembedding, which all families call the same; nothing is left."""
    if config.tied:
        tensors.take_tied("lm_head.weight", params["embed"]["tokens"])
    else:
        kernel = tensors.take("lm_head.weight", (config.vocab_size, config.width)).T
        params["unembed"] = {"kernel": kernel}
    tensors.finish()
    return params


def to_llama(params: Params, config: ModelConfig) -> StateDict:
    """The inverse of `from_llama`."""
    state = {
        "model.embed_tokens.weight": params["embed"]["tokens"],
        "model.norm.weight": params["final_norm"]["scale"] - _norm_offset(config),
    }
    if not config.tied:
        state["lm_head.weight"] = params["unembed"]["kernel"].T
    for path, theirs in _block_names(config).items():
        stacked = functools.reduce(operator.getitem, path, params["blocks"])
        if path[-1] == "scale":
            stacked = stacked - _norm_offset(config)
        for layer in range(config.layers):
            state[f"model.layers.{layer}.{theirs}"] = stacked[layer].T
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def _block_names(config: ModelConfig) -> dict[tuple[str, ...], str]:
    """Our path inside a block -> their name inside a layer, for Llama and its descendants."""
    names = LLAMA_BLOCK | (QK_NORMS if config.qk_norm else {})
    return names | (GEMMA3_NORMS if config.norm_position == "both" else {})


def _norm_offset(config: ModelConfig) -> np.float32:
    return np.float32(config.norm_position == "both")


def load_pretrained(folder: Path | str) -> tuple[ModelConfig, Params]:
    """A local folder with config.json and *.safetensors -> (config, parameters, float32).

    Raises:
      UserError: if a file is missing, the architecture is not one that `ModelConfig` expresses, or
        a key or tensor would be left unused.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; give the folder of a downloaded model.")
    theirs = read_json(folder / "config.json")
    config = config_from_hf(theirs, str(folder / "config.json"))
    convert = from_gpt2 if theirs["model_type"] == "gpt2" else from_llama
    tensors = read_tensors(folder)
    try:
        return config, convert(tensors, config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
