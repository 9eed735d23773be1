"""The decoder: one configurable block (`blocks.py`), scanned over layers.

Parameters are a plain nested dict, float32, with the blocks stacked on a leading L axis:

    embed/tokens [V, D]             embed/positions [context, D]       (learned positions)
    blocks/attn_norm/scale [L, D]   blocks/attn_norm/bias
    blocks/attn/q [L, D, N*H]       k, v [L, D, K*H]   out [L, N*H, D]   q_bias, ..., out_bias
                                                                       (biases; q, k, v: qkv_biases)
    blocks/attn/q_norm/scale [L, H] k_norm                             (qk_norm)
    blocks/mlp_norm/scale [L, D]    blocks/mlp_norm/bias
    blocks/mlp/up [L, D, F]         gate [L, D, F] (gated)    down [L, F, D]   up_bias, ...
    blocks/attn_out_norm/scale      blocks/mlp_out_norm/scale [L, D]   (norm_position "both")
    final_norm/scale [D]            final_norm/bias                    (norm_position not "post")
    unembed/kernel [D, V]                                              (untied)

or, for decoding on a CPU, every layer's own apart: blocks_0/..., blocks_1/... (`for_decoding`).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Tokens
from gpt_jax.errors import UserError
from gpt_jax.models import contract
from gpt_jax.models.axes import declared, unboxed, with_axes
from gpt_jax.models.blocks import Block, Rows, remat_block, residual_axes
from gpt_jax.models.cache import KVCache, OwnEntries, Stacks, write
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Params
from gpt_jax.models.dropout import Purpose, draws_of, drop
from gpt_jax.models.layers import Norm, normal, parameter
from gpt_jax.models.paged import Pages
from gpt_jax.models.positions import rotary_angles, sinusoids
from gpt_jax.models.quantized import dequantized
from gpt_jax.parallel.mesh import platform
from gpt_jax.parallel.rules import Axes, constrain


@contract.init.register(ModelConfig)
def _init(config: ModelConfig, key: jax.Array) -> Params:
    """N(0, 0.02), residual projections scaled by 1/sqrt(2 L), zero biases."""
    return unboxed(_boxed(config, key))


def _boxed(config: ModelConfig, key: jax.Array) -> Params:
    dummy_BT = jnp.ones((1, 1), jnp.int32)
    dummy = Tokens(dummy_BT, dummy_BT * 0, dummy_BT)
    return Transformer(config).init(key, dummy, mutable="params")["params"]


@functools.cache
def _abstract(config: ModelConfig) -> Params:
    """The boxed parameters as ShapeDtypeStructs: tracing them takes a quarter of a second."""
    return jax.eval_shape(lambda: _boxed(config, jax.random.key(0)))


@contract.param_shapes.register(ModelConfig)
def _param_shapes(config: ModelConfig) -> Params:
    return unboxed(_abstract(config))


@contract.logical_axes.register(ModelConfig)
@functools.cache
def _logical_axes(config: ModelConfig) -> Axes:
    return declared(_abstract(config))


@contract.forward.register(ModelConfig)
def _forward(
    config: ModelConfig,
    params: Params,
    tokens_BT: Tokens,
    cache: KVCache | None = None,
    *,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, KVCache | None]:
    """With a cache the T tokens are appended at `cache.index_B` and attend to all that their row
    of it holds; the caller sees to it that `index_B + T <= S`. Dropout is for training, without a
    cache."""
    draws, rates = None, (config.dropout, config.attention_dropout, config.embedding_dropout)
    if dropout_key is not None and any(rates):
        if cache is not None:
            raise ValueError("dropout is for training; there is none with a cache")
        draws = draws_of(dropout_key, tokens_BT)
    if cache is not None and not isinstance(cache.entries, Stacks | Pages):
        params = _layers_apart(config, params)
    return Transformer(config).apply({"params": params}, tokens_BT, cache, draws)


@contract.for_decoding.register(ModelConfig)
def _for_decoding(config: ModelConfig, params: Params) -> Params:
    """On a CPU every layer's own: XLA would copy a layer out of the stacks at every token."""
    return _layers_apart(config, params) if platform() == "cpu" else params


def _layers_apart(config: ModelConfig, params: Params) -> Params:
    """The parameters with `blocks_0`, `blocks_1` and so on in place of the stacked `blocks`."""
    if "blocks" not in params:
        return params
    rest = {name: leaf for name, leaf in params.items() if name != "blocks"}
    layers = range(config.layers)
    return rest | {
        f"blocks_{layer}": jax.tree.map(lambda x_L: x_L[layer], params["blocks"])  # noqa: B023
        for layer in layers
    }


def attention_weights(config: ModelConfig, params: Params, tokens_BT: Tokens) -> jax.Array:
    """What every query gives every key, for looking at: weights_LBNTT float32.

    The last axis sums to 1 over the keys that the query sees, and is 0 elsewhere; it is all 0 where
    the query is padding. They are the reference implementation's, and the layers then compute with
    them, so that what is looked at is what was used.
    """
    _, found = Transformer(config).apply({"params": params}, tokens_BT, mutable="attention")
    (weights_LBNTT,) = found["attention"]["blocks"]["attn"]["weights"]
    return weights_LBNTT


@contract.init_cache.register(ModelConfig)
def _init_cache(config: ModelConfig, batch: int, length: int) -> KVCache:
    if config.positions == "learned" and config.context_length < length:
        raise UserError(
            f"{length} tokens exceed the model's context_length {config.context_length}, which its "
            "learned positions end at; shorten the prompts or lower max_new_tokens"
        )
    c = config.resolved()
    if platform() == "cpu":
        empty_BKSH = jnp.zeros((batch, c.kv_heads, length, c.head_size), config.dtype)
        entries = (OwnEntries(empty_BKSH, empty_BKSH),) * c.layers
    else:
        empty_LBSI = jnp.zeros((c.layers, batch, length, c.kv_heads * c.head_size), config.dtype)
        entries = Stacks(empty_LBSI, empty_LBSI)
    return KVCache(
        entries,
        segment_ids_BS=jnp.zeros((batch, length), jnp.int32),
        index_B=jnp.zeros((batch,), jnp.int32),
    )


@contract.unembedding.register(ModelConfig)
def _unembedding(config: ModelConfig, params: Params) -> jax.Array:
    """The embedding when tied, else its own matrix."""
    if config.tied:
        return dequantized(params["embed"]["tokens"])
    return params["unembed"]["kernel"].T


@contract.logit_softcap.register(ModelConfig)
def _logit_softcap(config: ModelConfig) -> float | None:
    return config.logit_softcap


def layer_unroll(layers: int) -> int:
    """How many layers one step of the layer scan holds.

    A loop costs XLA's CPU backend about 15% of a training step (every layer's weights and
    gradients are copied out of and into the stacks), so shallow models are unrolled there.
    Elsewhere one block is compiled once.
    """
    return layers if platform() == "cpu" and layers <= 16 else 1


class Transformer(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, tokens_BT, cache=None, draws=None):
        c = self.config.resolved()
        ids_BT, positions_BT, segment_ids_BT = tokens_BT
        x_BTD = Embedding(c, name="embed")(ids_BT, positions_BT)
        x_BTD = drop(x_BTD, c.embedding_dropout, draws, Purpose.EMBEDDING)
        x_BTD = constrain(x_BTD, *residual_axes(x_BTD, cache))

        if cache is None:
            kv_cache, kv_segment_ids_BS, index_B = None, segment_ids_BT, 0
        else:
            index_B = cache.index_B
            kv_segment_ids_BS = write(cache.segment_ids_BS, segment_ids_BT, index_B)
            kv_cache = cache.entries

        carry = (x_BTD, kv_cache)
        rows = Rows(
            rotary_angles(c, positions_BT), segment_ids_BT, kv_segment_ids_BS, index_B, draws
        )
        if self.has_variable("params", "blocks_0"):
            for layer in range(c.layers):
                carry, _ = Block(c, name=f"blocks_{layer}")(carry, layer, rows)
        else:
            unroll = layer_unroll(c.layers)
            blocks = nn.scan(
                remat_block(c, in_loop=unroll < c.layers),
                variable_axes={"params": 0, "attention": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast),
                length=c.layers,
                unroll=unroll,
            )(c, name="blocks")
            carry, _ = blocks(carry, jnp.arange(c.layers), rows)
        x_BTD, kv_cache = carry
        if c.norm_position != "post":
            x_BTD = Norm(c, name="final_norm")(x_BTD)
        if not c.tied:
            # Declared here so that `init` makes it; read by `_unembedding`.
            kernel = with_axes(normal, "width", "vocab")
            if self.is_initializing():
                self.param("unembed", lambda key: {"kernel": kernel(key, (c.width, c.vocab_size))})
        if cache is not None:
            cache = KVCache(kv_cache, kv_segment_ids_BS, index_B + ids_BT.shape[1])
        return x_BTD, cache


class Embedding(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, ids_BT, positions_BT):
        c = self.config
        tokens_VD = parameter(
            self, "tokens", with_axes(normal, "vocab", "width"), (c.vocab_size, c.width)
        )
        x_BTD = tokens_VD[ids_BT]
        if c.positions == "learned":
            positions_TD = self.param(
                "positions", with_axes(normal, "position", "width"), (c.context_length, c.width)
            )
            x_BTD += positions_TD[positions_BT]
        elif c.positions == "sinusoidal":
            x_BTD += sinusoids(positions_BT, c.width)
        if c.scale_embedding:
            x_BTD *= c.width**0.5
        return x_BTD.astype(c.dtype)
