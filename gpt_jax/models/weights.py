"""Import and export: our parameters <-> Hugging Face state dicts of GPT-2, Llama, Qwen3, Gemma 3.

A state dict is `dict[str, np.ndarray]` in float32. GPT-2 stores kernels [in, out], as we do, with
q, k and v side by side; the others store them [out, in]. All pair rotary dimension i with i + H/2.
Gemma stores the scale of a norm minus 1.
"""

import functools
import json
import operator
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Params

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


def from_gpt2(state_dict: StateDict, config: ModelConfig) -> Params:
    """The parameters of a GPT-2 state dict, with or without the "transformer." prefix.

    Raises:
      UserError: naming the first tensor that is missing.
    """
    state = {name.removeprefix("transformer."): array for name, array in state_dict.items()}
    layers = [f"h.{layer}." for layer in range(config.layers)]
    blocks = {"attn_norm": {}, "attn": {}, "mlp_norm": {}, "mlp": {}}
    for (part, name), theirs in GPT2_BLOCK.items():
        blocks[part][name] = np.stack([_take(state, layer + theirs) for layer in layers])
    for suffix, theirs in (("", "attn.c_attn.weight"), ("_bias", "attn.c_attn.bias")):
        stacked = np.stack([_take(state, layer + theirs) for layer in layers])
        for name, third in zip("qkv", np.split(stacked, 3, axis=-1), strict=True):
            blocks["attn"][name + suffix] = third
    return {
        "embed": {"tokens": _take(state, "wte.weight"), "positions": _take(state, "wpe.weight")},
        "blocks": blocks,
        "final_norm": {"scale": _take(state, "ln_f.weight"), "bias": _take(state, "ln_f.bias")},
    }


def to_gpt2(params: Params, config: ModelConfig) -> StateDict:
    """The inverse of `from_gpt2`, with the "transformer." prefix."""
    state = {
        "wte.weight": params["embed"]["tokens"],
        "wpe.weight": params["embed"]["positions"],
        "ln_f.weight": params["final_norm"]["scale"],
        "ln_f.bias": params["final_norm"]["bias"],
    }
    attn = params["blocks"]["attn"]
    for layer in range(config.layers):
        for (part, name), theirs in GPT2_BLOCK.items():
            state[f"h.{layer}.{theirs}"] = params["blocks"][part][name][layer]
        for suffix, theirs in (("", "weight"), ("_bias", "bias")):
            thirds = [np.asarray(attn[name + suffix][layer]) for name in "qkv"]
            state[f"h.{layer}.attn.c_attn.{theirs}"] = np.concatenate(thirds, axis=-1)
    return {f"transformer.{name}": np.asarray(array) for name, array in state.items()}


def from_llama(state_dict: StateDict, config: ModelConfig) -> Params:
    """The parameters of a Llama, Qwen3 or Gemma 3 state dict.

    Raises:
      UserError: naming the first tensor that is missing.
    """
    blocks: dict[str, Any] = {}
    for (*parents, name), theirs in _block_names(config).items():
        arrays = [
            _take(state_dict, f"model.layers.{layer}.{theirs}") for layer in range(config.layers)
        ]
        place = blocks
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = np.stack([array.T for array in arrays])  # A norm's .T is itself.
        if name == "scale":
            place[name] += _norm_offset(config)
    final = _take(state_dict, "model.norm.weight") + _norm_offset(config)
    params = {
        "embed": {"tokens": _take(state_dict, "model.embed_tokens.weight")},
        "blocks": blocks,
        "final_norm": {"scale": final},
    }
    if not config.tied:
        params["unembed"] = {"kernel": _take(state_dict, "lm_head.weight").T}
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
      UserError: if a file is missing, or the architecture is not one that `ModelConfig` expresses.
    """
    # Here, because nothing else needs the package.
    from safetensors.numpy import load_file

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; give the folder of a downloaded model.")
    theirs = json.loads((folder / "config.json").read_text())
    config = config_from_hf(theirs, folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no *.safetensors file; download the weights in that format.")
    state = {
        name: np.asarray(array, np.float32)
        for file in files
        for name, array in load_file(file).items()
    }
    convert = from_gpt2 if theirs["model_type"] == "gpt2" else from_llama
    return config, convert(state, config)


def config_from_hf(theirs: dict, source: Path) -> ModelConfig:
    """The `ModelConfig` that a Hugging Face config.json describes.

    Raises:
      UserError: naming `source` and what cannot be expressed.
    """
    kind = theirs.get("model_type")
    if kind == "gpt2":
        if theirs.get("activation_function", "gelu_new") != "gelu_new":
            raise UserError(f"{source}: only the gelu_new activation of GPT-2 is supported.")
        return ModelConfig(
            vocab_size=theirs["vocab_size"],
            context_length=theirs["n_positions"],
            width=theirs["n_embd"],
            layers=theirs["n_layer"],
            heads=theirs["n_head"],
            mlp_width=theirs.get("n_inner"),
            norm_eps=theirs.get("layer_norm_epsilon", 1e-5),
        )
    if kind not in ("llama", "qwen3", "gemma3_text"):
        raise UserError(
            f"{source}: model_type is {kind!r}; gpt2, llama, qwen3 and gemma3_text can be loaded."
        )
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if theirs.get("attention_bias") or theirs.get("mlp_bias"):
        raise UserError(f"{source}: models with biases are supported as gpt2 only.")
    shape = dict(
        vocab_size=theirs["vocab_size"],
        context_length=theirs["max_position_embeddings"],
        width=theirs["hidden_size"],
        layers=theirs["num_hidden_layers"],
        heads=theirs["num_attention_heads"],
        kv_heads=theirs.get("num_key_value_heads"),
        head_size=theirs.get("head_dim"),
        mlp_width=theirs["intermediate_size"],
        positions="rope",
        norm="rms",
        mlp="swiglu",
        tied=theirs.get("tie_word_embeddings", kind == "gemma3_text"),
        biases=False,
        norm_eps=theirs["rms_norm_eps"],
    )
    if kind == "gemma3_text":
        return ModelConfig(**shape | _gemma3_fields(theirs, rope, source))
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise UserError(f"{source}: scaled rotary frequencies are not supported; use a base model.")
    if theirs.get("use_sliding_window"):
        raise UserError(f"{source}: sliding windows are supported as gemma3_text only.")
    theta = rope.get("rope_theta", theirs.get("rope_theta", 10000.0))
    return ModelConfig(**shape, rope_theta=theta, qk_norm=kind == "qwen3")


def _gemma3_fields(theirs: dict, rope: dict, source: Path) -> dict:
    """What Gemma 3 has beyond Llama; its rotary settings are per kind of layer or flat."""
    if theirs.get("use_bidirectional_attention") or theirs.get("final_logit_softcapping"):
        raise UserError(f"{source}: bidirectional or soft-capped Gemma models are not supported.")
    local, whole = rope.get("sliding_attention", {}), rope.get("full_attention", rope)
    if whole.get("rope_type", "default") not in ("default", "linear"):
        raise UserError(f"{source}: only linear scaling of rotary positions is supported.")
    layer_types = theirs.get("layer_types") or []
    full = [i for i, name in enumerate(layer_types, start=1) if name == "full_attention"]
    every = theirs.get("sliding_window_pattern") or (full[0] if full else 6)
    if full != [i for i in range(1, len(layer_types) + 1) if i % every == 0]:
        raise UserError(f"{source}: its global layers do not come at a regular distance.")
    return dict(
        norm_position="both",
        qk_norm=True,
        mlp="geglu",
        scale_embedding=True,
        query_scale=theirs["query_pre_attn_scalar"] ** -0.5,
        window=theirs["sliding_window"],
        global_every=every,
        rope_theta=whole.get("rope_theta", theirs.get("rope_theta", 1e6)),
        rope_divisor=whole.get("factor", 1.0),
        rope_theta_local=local.get("rope_theta", theirs.get("rope_local_base_freq", 10000.0)),
    )


def _take(state: StateDict, name: str) -> np.ndarray:
    if name not in state:
        raise UserError(
            f"The state dict has no tensor {name}; is it of another architecture or depth?"
        )
    return np.asarray(state[name])
