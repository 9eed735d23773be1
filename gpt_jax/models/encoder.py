"""BERT's encoder (Devlin et al. 2019): every token sees every other one of its text.

Pure functions of (model, parameters, tokens). What differs from the decoder: attention has no
causal mask, norms come after the sums (Vaswani et al. 2017, section 3.1), and tokens have types.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Tokens
from gpt_jax.errors import UserError
from gpt_jax.kernels.attention.over_mesh import attention
from gpt_jax.models import contract
from gpt_jax.models.contract import Params
from gpt_jax.parallel.rules import Axes, constrain

Pooling = Literal["mean", "cls"]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What an encoder computes.

    Attributes:
      vocab_size: V.
      context_length: the rows of the table of positions.
      width: D.
      layers: L.
      heads: N, of which `width` is a multiple.
      mlp_width: F.
      types: the rows of the table of token types; a text alone is of type 0.
      norm_eps: of the layer norms.
      dtype: of the hidden states.
    """

    vocab_size: int
    context_length: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    types: int = 2
    norm_eps: float = 1e-12
    dtype: str = "float32"

    def __post_init__(self):
        if self.width % self.heads:
            raise UserError(f"a width of {self.width} does not divide into {self.heads} heads")


def _table(model: Encoder) -> dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]]:
    """Every parameter by its path: its shape, and its logical axes."""
    D, F, L = model.width, model.mlp_width, model.layers
    found = {
        "embed/tokens": ((model.vocab_size, D), ("vocab", "width")),
        "embed/positions": ((model.context_length, D), ("position", "width")),
        "embed/types": ((model.types, D), (None, "width")),
        "embed/norm/scale": ((D,), (None,)),
        "embed/norm/bias": ((D,), (None,)),
    }
    for name in ("q", "k", "v"):
        found[f"blocks/attn/{name}"] = ((L, D, D), ("layers", "width", "heads"))
        found[f"blocks/attn/{name}_bias"] = ((L, D), ("layers", "heads"))
    found["blocks/attn/out"] = ((L, D, D), ("layers", "heads", "width"))
    found["blocks/mlp/up"] = ((L, D, F), ("layers", "width", "mlp"))
    found["blocks/mlp/up_bias"] = ((L, F), ("layers", "mlp"))
    found["blocks/mlp/down"] = ((L, F, D), ("layers", "mlp", "width"))
    for name in ("attn/out_bias", "mlp/down_bias"):
        found[f"blocks/{name}"] = ((L, D), ("layers", None))
    for name in ("attn_norm", "mlp_norm"):
        found[f"blocks/{name}/scale"] = ((L, D), ("layers", None))
        found[f"blocks/{name}/bias"] = ((L, D), ("layers", None))
    return found


@contract.logical_axes.register(Encoder)
def _(model: Encoder) -> Axes:
    return {path: axes for path, (_, axes) in _table(model).items()}


@contract.param_shapes.register(Encoder)
def _(model: Encoder) -> Params:
    params: Params = {}
    for path, (shape, _) in _table(model).items():
        *inner, last = path.split("/")
        place = functools.reduce(lambda tree, part: tree.setdefault(part, {}), inner, params)
        place[last] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return params


def encode(model: Encoder, params: Params, tokens_BT: Tokens) -> jax.Array:
    """hidden_BTD of the last block, in `model.dtype`.

    Args:
      model: a static argument under `jax.jit`.
      params: nested as `param_shapes` says.
      tokens_BT: rows of tokens of type 0; a segment knows nothing of the others, nor of padding.
    """
    embed = params["embed"]
    x_BTD = embed["tokens"][tokens_BT.ids] + embed["positions"][tokens_BT.positions]
    x_BTD = _norm(model, embed["norm"], x_BTD + embed["types"][0])

    def block(x_BTD, layer):
        x_BTD = constrain(x_BTD, "batch", "length", None)
        mixed_BTD = _attend(model, layer["attn"], x_BTD, tokens_BT.segment_ids)
        x_BTD = _norm(model, layer["attn_norm"], x_BTD + mixed_BTD)
        # The Gaussian's own distribution function (Hendrycks & Gimpel 2016), not the tanh near it.
        up_BTF = jax.nn.gelu(_dense(layer["mlp"], "up", x_BTD), approximate=False)
        return _norm(model, layer["mlp_norm"], x_BTD + _dense(layer["mlp"], "down", up_BTF)), None

    return jax.lax.scan(block, x_BTD, params["blocks"])[0]


def _attend(model: Encoder, layer: Params, x_BTD: jax.Array, segment_ids_BT) -> jax.Array:
    B, T, _ = x_BTD.shape
    q_BTNH, k_BTNH, v_BTNH = (
        _dense(layer, name, x_BTD).reshape(B, T, model.heads, -1) for name in ("q", "k", "v")
    )
    out_BTNH = attention(
        q_BTNH,
        k_BTNH,
        v_BTNH,
        q_segment_ids_BT=segment_ids_BT,
        kv_segment_ids_BS=segment_ids_BT,
        causal=False,
    )
    return _dense(layer, "out", out_BTNH.reshape(B, T, -1))


def _dense(layer: Params, name: str, x_BTI: jax.Array) -> jax.Array:
    kernel_IO = layer[name].astype(x_BTI.dtype)
    return x_BTI @ kernel_IO + layer[f"{name}_bias"].astype(x_BTI.dtype)


def _norm(model: Encoder, layer: Params, x_BTD: jax.Array) -> jax.Array:
    """Layer norm, in float32."""
    x_BTD = x_BTD.astype(jnp.float32)
    x_BTD -= x_BTD.mean(axis=-1, keepdims=True)
    variance_BT1 = jnp.square(x_BTD).mean(axis=-1, keepdims=True)
    y_BTD = x_BTD * jax.lax.rsqrt(variance_BT1 + model.norm_eps) * layer["scale"] + layer["bias"]
    return y_BTD.astype(model.dtype)


def pooled(hidden_BTD: jax.Array, segment_ids_BT: jax.Array, pooling: Pooling) -> jax.Array:
    """vectors_BD float32 of rows with one text each: the mean of its tokens, or its first one."""
    hidden_BTD, real_BT = hidden_BTD.astype(jnp.float32), segment_ids_BT > 0
    if pooling == "cls":
        first_B11 = real_BT.argmax(axis=1)[:, None, None]
        return jnp.take_along_axis(hidden_BTD, first_B11, axis=1)[:, 0]
    real_BT1 = real_BT[:, :, None]
    return jnp.where(real_BT1, hidden_BTD, 0.0).sum(1) / real_BT1.sum(1)


def of_length_one(vectors_BD: jax.Array) -> jax.Array:
    """The same directions, so that a product of two is their cosine."""
    return vectors_BD / jnp.linalg.norm(vectors_BD, axis=1, keepdims=True)
