"""One block of the decoder: attention, a feed-forward layer, and what joins them."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from gpt_jax.kernels.attention import attention_weights as weights_of
from gpt_jax.kernels.attention import mix
from gpt_jax.kernels.attention.over_mesh import attention
from gpt_jax.models.cache import MAX_DECODE_TOKENS
from gpt_jax.models.cached_attention import attend_to_cache
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.dropout import Draws, Purpose, drop, drop_weights
from gpt_jax.models.layers import Norm, dense
from gpt_jax.models.positions import rotate
from gpt_jax.parallel.rules import constrain

ACTIVATIONS = {
    "gelu": nn.gelu,
    "gelu_exact": functools.partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "swiglu": nn.silu,
    "geglu": nn.gelu,
}


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
        elif c.parallel:
            y_BTD, kv_cache = attn(attn_norm(x_BTD), kv_cache, layer, rows)
            z_BTD = mlp(mlp_norm(x_BTD))
            x_BTD += added("attn_out_norm", y_BTD, Purpose.ATTENTION)
            x_BTD += added("mlp_out_norm", z_BTD, Purpose.MLP)
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

        def heads(name, count):
            biased = c.biases or c.qkv_biases
            y_BTI = dense(self, name, x_BTD, count * H, ("width", "heads"), biased)
            return y_BTI.reshape(B, T, count, H)

        q_BTNH, k_BTKH, v_BTKH = heads("q", N), heads("k", K), heads("v", K)
        if c.qk_norm:
            q_BTNH, k_BTKH = Norm(c, name="q_norm")(q_BTNH), Norm(c, name="k_norm")(k_BTKH)
        # Matters only with a window.
        is_global = c.global_every is not None and (layer + 1) % c.global_every == 0
        if ropes_BTH is not None:
            if len(ropes_BTH) == 1:
                angles_BTH, magnitude = ropes_BTH[0], c.rope_magnitude
            else:
                angles_BTH, magnitude = jnp.where(is_global, *ropes_BTH), 1.0
                if c.rope_magnitude != 1.0:
                    magnitude = jnp.where(is_global, c.rope_magnitude, 1.0)
            q_BTNH, k_BTKH = (rotate(x, angles_BTH, magnitude) for x in (q_BTNH, k_BTKH))
        options = dict(
            q_segment_ids_BT=segment_ids_BT,
            kv_segment_ids_BS=kv_segment_ids_BS,
            scale=c.query_scale,
            softcap=c.attention_softcap,
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
        elif c.global_every is None:
            out = attend(window=c.window)
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
        if not c.gated:
            up_BTF = ACTIVATIONS[c.mlp](up_BTF)
        else:
            gate_BTF = dense(self, "gate", x_BTD, c.mlp_width, ("width", "mlp"))
            up_BTF *= ACTIVATIONS[c.mlp](gate_BTF)
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
