"""The decoder: one configurable block, scanned over layers.

Parameters are a plain nested dict, float32, with the blocks stacked on a leading L axis:

    embed/tokens [V, D]             embed/positions [context, D]       (learned positions)
    blocks/attn_norm/scale [L, D]   blocks/attn_norm/bias
    blocks/attn/q [L, D, N*H]       k, v [L, D, K*H]   out [L, N*H, D]   q_bias, ..., out_bias
    blocks/attn/q_norm/scale [L, H] k_norm                             (qk_norm)
    blocks/mlp_norm/scale [L, D]    blocks/mlp_norm/bias
    blocks/mlp/up [L, D, F]         gate [L, D, F] (gated)    down [L, F, D]   up_bias, ...
    blocks/attn_out_norm/scale      blocks/mlp_out_norm/scale [L, D]   (norm_position "both")
    final_norm/scale [D]            final_norm/bias                    (norm_position not "post")
    unembed/kernel [D, V]                                              (untied)
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from gpt_jax.data.batches import Tokens
from gpt_jax.errors import UserError
from gpt_jax.kernels.attention import attention_weights as weights_of
from gpt_jax.kernels.attention import mix
from gpt_jax.kernels.attention.over_mesh import attention
from gpt_jax.models import contract
from gpt_jax.models.axes import declared, unboxed, with_axes
from gpt_jax.models.cache import MAX_DECODE_TOKENS, KVCache, OwnEntries, Stacks, write
from gpt_jax.models.cached_attention import attend_to_cache
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Params
from gpt_jax.models.dropout import Draws, Purpose, draws_of, drop, drop_weights
from gpt_jax.models.layers import Norm, dense, normal
from gpt_jax.models.positions import rotary_angles, rotate, sinusoids
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


@contract.logical_axes.register(ModelConfig)
@functools.cache
def _logical_axes(config: ModelConfig) -> Axes:
    return declared(jax.eval_shape(lambda: _boxed(config, jax.random.key(0))))


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
    return Transformer(config).apply({"params": params}, tokens_BT, cache, draws)


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
    if platform() == "cpu" and layer_unroll(c.layers) == c.layers:
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
    return params["embed"]["tokens"] if config.tied else params["unembed"]["kernel"].T


def layer_unroll(layers: int) -> int:
    """How many layers one step of the layer scan holds.

    A loop costs XLA's CPU backend about 15% of a training step (every layer's weights and
    gradients are copied out of and into the stacks), so shallow models are unrolled there.
    Elsewhere one block is compiled once.
    """
    return layers if platform() == "cpu" and layers <= 16 else 1


def residual_axes(x_BTD: jax.Array, cache: Any) -> tuple[str | None, ...]:
    """The logical axes of the residual stream."""
    if cache is None:
        return "batch", "length", None
    if x_BTD.shape[1] > MAX_DECODE_TOKENS:
        return "batch", None, None  # a cache is not split along its length
    # A few tokens are less than a layer's weights: these stay on their devices and the products
    # are summed, where otherwise fsdp would gather the whole model for every token.
    return "replicas", None, "width"


class Rows(NamedTuple):
    """What every layer is told of the rows it works on.

    Attributes:
      ropes_BTH: the angles of `rotary_angles`, or None.
      segment_ids_BT: of the tokens.
      kv_segment_ids_BS: of the keys, the tokens' or the cache's.
      index_B: where the tokens of every row are written in the cache; 0 without one.
      draws: what dropout draws from, or None.
    """

    ropes_BTH: list[jax.Array] | None
    segment_ids_BT: jax.Array
    kv_segment_ids_BS: jax.Array
    index_B: jax.Array | int
    draws: Draws | None


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

        unroll = layer_unroll(c.layers)
        blocks = nn.scan(
            remat_block(c, in_loop=unroll < c.layers),
            variable_axes={"params": 0, "attention": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=c.layers,
            unroll=unroll,
        )(c, name="blocks")
        (x_BTD, kv_cache), _ = blocks(
            (x_BTD, kv_cache),
            jnp.arange(c.layers),
            Rows(rotary_angles(c, positions_BT), segment_ids_BT, kv_segment_ids_BS, index_B, draws),
        )
        if c.norm_position != "post":
            x_BTD = Norm(c, name="final_norm")(x_BTD)
        if not c.tied:
            # Declared here so that `init` makes it; read by `_unembedding`.
            kernel = with_axes(normal, "width", "vocab")
            self.param("unembed", lambda key: {"kernel": kernel(key, (c.width, c.vocab_size))})
        if cache is not None:
            cache = KVCache(kv_cache, kv_segment_ids_BS, index_B + ids_BT.shape[1])
        return x_BTD, cache


class Embedding(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, ids_BT, positions_BT):
        c = self.config
        tokens_VD = self.param(
            "tokens", with_axes(normal, "vocab", "width"), (c.vocab_size, c.width)
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


class Block(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, carry, layer, rows):
        c, (x_BTD, kv_cache) = self.config, carry
        x_BTD = checkpoint_name(x_BTD, "block_input")
        attn_norm, mlp_norm = Norm(c, name="attn_norm"), Norm(c, name="mlp_norm")
        attn, mlp = Attention(c, name="attn"), MLP(c, name="mlp")
        draws = rows.draws and rows.draws.of_layer(layer)
        rows = rows._replace(draws=draws)

        def added(name, y_BTD, purpose):
            """What a sublayer adds; Gemma norms it."""
            if c.norm_position == "both":
                y_BTD = Norm(c, name=name)(y_BTD)
            return drop(y_BTD, c.dropout, draws, purpose)

        if c.norm_position == "post":
            y_BTD, kv_cache = attn(x_BTD, kv_cache, layer, rows)
            x_BTD = attn_norm(x_BTD + added("attn_out_norm", y_BTD, Purpose.ATTENTION))
            x_BTD = mlp_norm(x_BTD + added("mlp_out_norm", mlp(x_BTD), Purpose.MLP))
        else:
            y_BTD, kv_cache = attn(attn_norm(x_BTD), kv_cache, layer, rows)
            x_BTD += added("attn_out_norm", y_BTD, Purpose.ATTENTION)
            x_BTD += added("mlp_out_norm", mlp(mlp_norm(x_BTD)), Purpose.MLP)
        return (constrain(x_BTD, *residual_axes(x_BTD, kv_cache)), kv_cache), None


class Attention(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, kv_cache, layer, rows):
        c = self.config
        ropes_BTH, segment_ids_BT, kv_segment_ids_BS, index_B, draws = rows
        B, T, D = x_BTD.shape
        N, K, H = c.heads, c.kv_heads, c.head_size
        q_BTNH = dense(self, "q", x_BTD, N * H, ("width", "heads")).reshape(B, T, N, H)
        k_BTKH = dense(self, "k", x_BTD, K * H, ("width", "heads")).reshape(B, T, K, H)
        v_BTKH = dense(self, "v", x_BTD, K * H, ("width", "heads")).reshape(B, T, K, H)
        if c.qk_norm:
            q_BTNH, k_BTKH = Norm(c, name="q_norm")(q_BTNH), Norm(c, name="k_norm")(k_BTKH)
        is_global = (layer + 1) % c.global_every == 0  # matters only with a window
        if ropes_BTH is not None:
            angles_BTH = ropes_BTH[0] if c.window is None else jnp.where(is_global, *ropes_BTH)
            q_BTNH, k_BTKH = rotate(q_BTNH, angles_BTH), rotate(k_BTKH, angles_BTH)
        options = dict(
            q_segment_ids_BT=segment_ids_BT,
            kv_segment_ids_BS=kv_segment_ids_BS,
            scale=c.query_scale,
        )
        # No kernel drops weights or hands them out, so then they are computed, and held.
        dropped = draws is not None and c.attention_dropout > 0
        explicit = kv_cache is None and (dropped or self.is_mutable_collection("attention"))
        if explicit:
            attend = functools.partial(weights_of, q_BTNH, k_BTKH, **options)
        elif kv_cache is None:
            attend = functools.partial(attention, q_BTNH, k_BTKH, v_BTKH, **options)
        else:
            attend, kv_cache = attend_to_cache(
                q_BTNH, (k_BTKH, v_BTKH), kv_cache, layer, index_B, options
            )
        if c.window is None:
            out = attend()
        else:
            # The layer is a number of the scan, so both kinds are compiled and one is run.
            out = jax.lax.cond(is_global, attend, lambda: attend(window=c.window))
        if explicit:
            self.sow("attention", "weights", out)
            out = mix(drop_weights(out, c.attention_dropout, draws), v_BTKH)
        out_BTI = out.reshape(B, T, N * H)
        if kv_cache is not None and T <= MAX_DECODE_TOKENS:
            out_BTI = constrain(out_BTI, "replicas", None, "heads")
        return dense(self, "out", out_BTI, D, ("heads", "width")), kv_cache


class MLP(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD):
        c = self.config
        up_BTF = dense(self, "up", x_BTD, c.mlp_width, ("width", "mlp"))
        if c.mlp == "gelu":
            up_BTF = nn.gelu(up_BTF, approximate=True)
        else:
            gate_BTF = dense(self, "gate", x_BTD, c.mlp_width, ("width", "mlp"))
            gate_BTF = nn.silu(gate_BTF) if c.mlp == "swiglu" else nn.gelu(gate_BTF)
            up_BTF *= gate_BTF
        return dense(self, "down", up_BTF, c.width, ("mlp", "width"))


def remat_block(config: ModelConfig, in_loop: bool) -> type[Block]:
    """The block, with the checkpoint policy that `config.remat` names."""
    if config.remat == "none":
        return Block
    policy = {
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "block": jax.checkpoint_policies.nothing_saveable,
        "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=["block_input"],
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }[config.remat]
    # Inside a loop XLA cannot merge the recomputation with the forward pass; outside it can.
    return nn.remat(Block, policy=policy, prevent_cse=not in_loop)
