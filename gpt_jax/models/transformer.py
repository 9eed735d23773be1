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
from gpt_jax.kernels.attention.over_mesh import attention
from gpt_jax.kernels.decode_attention.over_mesh import decode_attention
from gpt_jax.models import contract
from gpt_jax.models.axes import declared, unboxed, with_axes
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Params
from gpt_jax.parallel.mesh import platform
from gpt_jax.parallel.rules import Axes, constrain, merge_rows, split_rows

INIT_STDDEV = 0.02  # GPT-2 (Radford et al. 2019).
MAX_DECODE_TOKENS = 8  # With a cache, so few new tokens are bound by reading it.


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far, row b's in `[0, index_B[b])` of the S axis.

    Rows may stand at different places, so that requests of any length can share a cache.

    Attributes:
      keys_LBSI: in the compute dtype, after rotary positions. I is K * H, the heads side by side:
        TPUs pad the last two axes to 8 x 128, which K x H seldom fills.
      values_LBSI: in the compute dtype.
      segment_ids_BS: int32; 0 hides an entry (padding).
      index_B: int32, where the next tokens of every row are written.
    """

    keys_LBSI: jax.Array
    values_LBSI: jax.Array
    segment_ids_BS: jax.Array
    index_B: jax.Array


@contract.init.register(ModelConfig)
def _init(config: ModelConfig, key: jax.Array) -> Params:
    """N(0, 0.02), residual projections scaled by 1/sqrt(2 L), zero biases."""
    return unboxed(_boxed(config, key))


def _boxed(config: ModelConfig, key: jax.Array) -> Params:
    dummy_BT = jnp.ones((1, 1), jnp.int32)
    return Transformer(config).init(key, dummy_BT, dummy_BT * 0, dummy_BT, None)["params"]


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
    of it holds; the caller sees to it that `index_B + T <= S`."""
    return Transformer(config).apply({"params": params}, *tokens_BT, cache)


@contract.init_cache.register(ModelConfig)
def _init_cache(config: ModelConfig, batch: int, length: int) -> KVCache:
    if config.positions == "learned" and config.context_length < length:
        raise UserError(
            f"{length} tokens exceed the model's context_length {config.context_length}, which its "
            "learned positions end at; shorten the prompts or lower max_new_tokens"
        )
    c = config.resolved()
    shape_LBSI = (c.layers, batch, length, c.kv_heads * c.head_size)
    return KVCache(
        keys_LBSI=jnp.zeros(shape_LBSI, config.dtype),
        values_LBSI=jnp.zeros(shape_LBSI, config.dtype),
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


class Transformer(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, tokens_BT, positions_BT, segment_ids_BT, cache):
        c = self.config.resolved()
        x_BTD = Embedding(c, name="embed")(tokens_BT, positions_BT)
        x_BTD = constrain(x_BTD, *residual_axes(x_BTD, cache))

        if cache is None:
            kv_cache, kv_segment_ids_BS, index_B = None, segment_ids_BT, 0
        else:
            index_B = cache.index_B
            kv_segment_ids_BS = write(cache.segment_ids_BS, segment_ids_BT, index_B)
            kv_cache = (cache.keys_LBSI, cache.values_LBSI)

        unroll = layer_unroll(c.layers)
        blocks = nn.scan(
            remat_block(c, in_loop=unroll < c.layers),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, *[nn.broadcast] * 4),
            length=c.layers,
            unroll=unroll,
        )(c, name="blocks")
        (x_BTD, kv_cache), _ = blocks(
            (x_BTD, kv_cache),
            jnp.arange(c.layers),
            rotary_angles(c, positions_BT),
            segment_ids_BT,
            kv_segment_ids_BS,
            index_B,
        )
        if c.norm_position != "post":
            x_BTD = Norm(c, name="final_norm")(x_BTD)
        if not c.tied:
            # Declared here so that `init` makes it; read by `_unembedding`.
            kernel = with_axes(_normal, "width", "vocab")
            self.param("unembed", lambda key: {"kernel": kernel(key, (c.width, c.vocab_size))})
        if cache is not None:
            cache = KVCache(*kv_cache, kv_segment_ids_BS, index_B + tokens_BT.shape[1])
        return x_BTD, cache


class Embedding(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, tokens_BT, positions_BT):
        c = self.config
        tokens_VD = self.param(
            "tokens", with_axes(_normal, "vocab", "width"), (c.vocab_size, c.width)
        )
        x_BTD = tokens_VD[tokens_BT]
        if c.positions == "learned":
            positions_TD = self.param(
                "positions", with_axes(_normal, "position", "width"), (c.context_length, c.width)
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
    def __call__(self, carry, layer, ropes_BTH, segment_ids_BT, kv_segment_ids_BS, index_B):
        x_BTD, kv_cache = carry
        x_BTD = checkpoint_name(x_BTD, "block_input")
        attn_norm, mlp_norm = (
            Norm(self.config, name="attn_norm"),
            Norm(self.config, name="mlp_norm"),
        )
        attn, mlp = Attention(self.config, name="attn"), MLP(self.config, name="mlp")
        masks = (segment_ids_BT, kv_segment_ids_BS, index_B)

        def added(name, y_BTD):
            """What a sublayer adds; Gemma norms it."""
            both = self.config.norm_position == "both"
            return Norm(self.config, name=name)(y_BTD) if both else y_BTD

        if self.config.norm_position == "post":
            y_BTD, kv_cache = attn(x_BTD, kv_cache, layer, ropes_BTH, *masks)
            x_BTD = attn_norm(x_BTD + y_BTD)
            x_BTD = mlp_norm(x_BTD + mlp(x_BTD))
        else:
            y_BTD, kv_cache = attn(attn_norm(x_BTD), kv_cache, layer, ropes_BTH, *masks)
            x_BTD += added("attn_out_norm", y_BTD)
            x_BTD += added("mlp_out_norm", mlp(mlp_norm(x_BTD)))
        return (constrain(x_BTD, *residual_axes(x_BTD, kv_cache)), kv_cache), None


class Attention(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD, kv_cache, layer, ropes_BTH, *masks):
        segment_ids_BT, kv_segment_ids_BS, index_B = masks
        c = self.config
        B, T, D = x_BTD.shape
        N, K, H = c.heads, c.kv_heads, c.head_size
        q_BTNH = _dense(self, "q", x_BTD, N * H, ("width", "heads")).reshape(B, T, N, H)
        k_BTKH = _dense(self, "k", x_BTD, K * H, ("width", "heads")).reshape(B, T, K, H)
        v_BTKH = _dense(self, "v", x_BTD, K * H, ("width", "heads")).reshape(B, T, K, H)
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
        if kv_cache is None:
            attend = functools.partial(attention, q_BTNH, k_BTKH, v_BTKH, **options)
        else:
            kv_cache = tuple(
                write(stack, new.reshape(B, T, K * H), index_B, layer)
                for stack, new in zip(kv_cache, (k_BTKH, v_BTKH), strict=True)
            )
            k_LBSKH, v_LBSKH = (stack.reshape(*stack.shape[:3], K, H) for stack in kv_cache)
            if T <= MAX_DECODE_TOKENS:
                attend = functools.partial(
                    decode_attention,
                    q_BTNH,
                    k_LBSKH,
                    v_LBSKH,
                    layer=layer,
                    lengths_B=index_B + T,
                    **options,
                )
            else:
                (k_BSKH, v_BSKH, kv_segment_ids_BS), index = align(
                    (k_LBSKH[layer], v_LBSKH[layer], kv_segment_ids_BS), index_B
                )
                options["kv_segment_ids_BS"] = kv_segment_ids_BS
                attend = functools.partial(
                    attention, q_BTNH, k_BSKH, v_BSKH, q_offset=index, **options
                )
        if c.window is None:
            out_BTNH = attend()
        else:
            # The layer is a number of the scan, so both kinds are compiled and one is run.
            out_BTNH = jax.lax.cond(is_global, attend, lambda: attend(window=c.window))
        out_BTI = out_BTNH.reshape(B, T, N * H)
        if kv_cache is not None and T <= MAX_DECODE_TOKENS:
            out_BTI = constrain(out_BTI, "replicas", None, "heads")
        return _dense(self, "out", out_BTI, D, ("heads", "width")), kv_cache


def write(
    entries_BS: jax.Array, new_BT: jax.Array, index_B: jax.Array, *layer: jax.Array
) -> jax.Array:
    """The entries with T new ones in every row, row b's from `index_B[b]` on.

    Only these are written: XLA updates carried stacks in place. Without the hints a CPU takes 30
    times as long. What would lie beyond the end is dropped.

    Args:
      entries_BS: of any further axes; with a `layer` there is an axis of layers in front.
      new_BT: of the same further axes.
      index_B: int32.
    """
    B, T = new_BT.shape[:2]
    rows_B1, places_BT = jnp.arange(B)[:, None], index_B[:, None] + jnp.arange(T)
    return entries_BS.at[(*layer, rows_B1, places_BT)].set(
        new_BT.astype(entries_BS.dtype),
        indices_are_sorted=True,
        unique_indices=True,
        mode="drop",
    )


def align(
    entries: tuple[jax.Array, jax.Array, jax.Array], index_B: jax.Array
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Moves every row's entries along S until all rows end where the longest does.

    The attention kernels take one offset for all rows. What a row is moved by comes round from
    its end to its start, where segment 0 hides it.

    Args:
      entries: k_BSKH, v_BSKH and their segment_ids_BS.
      index_B: int32, where every row's queries begin.

    Returns:
      The entries moved, and the int32 scalar at which the queries of all rows begin.
    """
    k_BSKH, v_BSKH, segment_ids_BS = entries
    index = index_B.max()
    places_BS = jnp.arange(k_BSKH.shape[1]) - (index - index_B)[:, None]
    k_BSKH, v_BSKH, moved_BS = (
        jax.vmap(lambda row, places: row[places])(x, places_BS % k_BSKH.shape[1])
        for x in (k_BSKH, v_BSKH, segment_ids_BS)
    )
    return (k_BSKH, v_BSKH, jnp.where(places_BS < 0, 0, moved_BS)), index


class MLP(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD):
        c = self.config
        up_BTF = _dense(self, "up", x_BTD, c.mlp_width, ("width", "mlp"))
        if c.mlp == "gelu":
            up_BTF = nn.gelu(up_BTF, approximate=True)
        else:
            gate_BTF = _dense(self, "gate", x_BTD, c.mlp_width, ("width", "mlp"))
            gate_BTF = nn.silu(gate_BTF) if c.mlp == "swiglu" else nn.gelu(gate_BTF)
            up_BTF *= gate_BTF
        return _dense(self, "down", up_BTF, c.width, ("mlp", "width"))


class Norm(nn.Module):
    """Layer norm or RMS norm over the last axis, in float32."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD):
        c = self.config
        # Small: every device keeps them whole.
        scale_D = self.param("scale", with_axes(nn.initializers.ones, None), (x_BTD.shape[-1],))
        y_BTD = x_BTD.astype(jnp.float32)
        if c.norm == "layer":
            y_BTD -= y_BTD.mean(axis=-1, keepdims=True)
        variance_BT1 = jnp.square(y_BTD).mean(axis=-1, keepdims=True)
        y_BTD *= jax.lax.rsqrt(variance_BT1 + c.norm_eps) * scale_D
        if c.norm == "layer" and c.biases:
            zeros = with_axes(nn.initializers.zeros, None)
            y_BTD += self.param("bias", zeros, (x_BTD.shape[-1],))
        return y_BTD.astype(c.dtype)


def _dense(module, name: str, x_BTI: jax.Array, outputs: int, axes: tuple[str, str]) -> jax.Array:
    """x W (+ b), with parameters `name` [I, O] of these logical axes and `name`_bias [O].

    The matmul runs on 2-D operands: XLA's CPU backend turns the weight gradient of a 3-D one
    into transposed copies that cost more than the matmul itself.
    """
    c = module.config
    inputs = x_BTI.shape[-1]
    residual = axes[1] == "width"  # what goes to the residual stream
    stddev = INIT_STDDEV * (2 * c.layers) ** -0.5 if residual else INIT_STDDEV
    normal = with_axes(nn.initializers.normal(stddev), *axes)
    kernel_IO = module.param(name, normal, (inputs, outputs))
    y_MO = matmul(merge_rows(x_BTI), kernel_IO.astype(c.dtype))
    if c.biases:
        zeros = with_axes(nn.initializers.zeros, None if residual else axes[1])
        bias_O = module.param(f"{name}_bias", zeros, (outputs,))
        y_MO += bias_O.astype(c.dtype)
    return split_rows(y_MO, *x_BTI.shape[:2])


@jax.custom_vjp
def matmul(x_MI: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """x W, whose weight gradient transposes the narrower of its two operands.

    XLA's CPU backend copies the transposed operand, so x^T g is slow where x is wide; there
    (g^T x)^T transposes g and the small result. The barrier keeps XLA from folding it back.
    """
    return x_MI @ kernel_IO


def _matmul_forward(x_MI, kernel_IO):
    return x_MI @ kernel_IO, (x_MI, kernel_IO)


def _matmul_backward(residuals, gradient_MO):
    x_MI, kernel_IO = residuals
    if x_MI.shape[1] > gradient_MO.shape[1]:
        kernel_gradient_IO = jax.lax.optimization_barrier(gradient_MO.T @ x_MI).T
    else:
        kernel_gradient_IO = x_MI.T @ gradient_MO
    return gradient_MO @ kernel_IO.T, kernel_gradient_IO


matmul.defvjp(_matmul_forward, _matmul_backward)


def _normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return INIT_STDDEV * jax.random.normal(key, shape)


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


def sinusoids(positions_BT: jax.Array, width: int) -> jax.Array:
    """Sines, then cosines, of positions (Vaswani et al. 2017, section 3.5): B x T x width."""
    frequency = 10000.0 ** (-jnp.arange(0, width, 2) / width)
    angle = positions_BT[..., None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def rotary_angles(config: ModelConfig, positions_BT: jax.Array) -> list[jax.Array] | None:
    """The angles position * theta^(-2i/H), i < H/2 (Su et al. 2021): B x T x H/2 float32.

    One array for global layers and, with a window, one for local layers; None without rotary
    positions.
    """
    c = config.resolved()
    if c.positions != "rope":
        return None
    exponent = jnp.arange(0, c.head_size, 2) / c.head_size
    angles = [(positions_BT / c.rope_divisor)[..., None] * c.rope_theta**-exponent]
    if c.window is not None:
        angles.append(positions_BT[..., None] * c.rope_theta_local**-exponent)
    return angles


def rotate(x_BTNH: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates dimension i together with i + H/2 (the pairing of the published Llama weights)."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)
