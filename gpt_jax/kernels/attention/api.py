"""The public attention functions; `reference.py` is their specification.

`attention` is differentiable. `attention_forward` and `attention_backward` are its two halves
with the log-sum-exp in the open, for algorithms that merge partial results (ring attention).
"""

import functools
import importlib
import logging
from types import ModuleType
from typing import Literal

import jax
import jax.numpy as jnp

from gpt_jax.errors import UserError
from gpt_jax.kernels.attention import reference, xla
from gpt_jax.kernels.attention.scores import Options

Implementation = Literal["reference", "xla", "pallas_tpu", "pallas_gpu", "mosaic_gpu"]

# What `implementation=None` tries on a platform before "xla".
PREFERRED = {"tpu": "pallas_tpu", "gpu": "pallas_gpu"}


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    q_segment_ids_BT: jax.Array,
    kv_segment_ids_BS: jax.Array,
    q_offset: jax.Array | int = 0,
    causal: bool = True,
    window: int | None = None,
    softcap: float | None = None,
    alibi_slopes_N: jax.Array | None = None,
    scale: float | None = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    """Scaled dot-product attention, softmax(scale * q k^T) v, per head and segment.

    Query t sits at index `q_offset + t` of the key axis. It attends to key s exactly when
    `s <= q_offset + t` (if causal), `s > q_offset + t - window` (if there is a window) and both
    carry the same nonzero segment id. Segment 0 is padding. A query that may attend to nothing
    gets 0, with finite (zero) gradients.

    Args:
      q_BTNH: queries, float32 or bfloat16. N must be a multiple of K; query head n reads
        key/value head n // (N // K).
      k_BSKH: keys, same dtype.
      v_BSKH: values, same dtype.
      q_segment_ids_BT: int32.
      kv_segment_ids_BS: int32.
      q_offset: int32 scalar, may be traced (the write index of a cache) and may be negative.
      causal: whether later keys are hidden.
      window: how many keys a query sees at the most, its own included (Beltagy et al. 2020).
      softcap: squashes scaled scores to cap * tanh(score / cap) (Gemma team 2024, section 2).
      alibi_slopes_N: float32; slope * (distance to the key) is taken off each score (Press et
        al. 2022). Constants: no gradient flows into them.
      scale: H**-0.5 by default.
      implementation: "reference" (plain float32), "xla" (any device), "pallas_tpu" (T >= 128),
        "pallas_gpu" (NVIDIA, compute capability 8.0 and up; on a CPU slowly, in an interpreter),
        "mosaic_gpu" (Hopper). None: the platform's kernel in PREFERRED, else "xla"; the log says
        which, once. A kernel that cannot take these shapes leaves them to "xla". XLA cannot
        partition a kernel: on a mesh of several devices, None is a kernel only in `jax.shard_map`.

    Returns:
      out_BTNH in the dtype of q; the softmax is taken in float32.

    Raises:
      UserError: for a window without causal.

    Source: Vaswani et al. 2017, equation 1; grouped heads: Ainslie et al. 2023.
    """
    options = make_options(q_BTNH, causal, window, softcap, scale)
    if alibi_slopes_N is not None:
        alibi_slopes_N = jax.lax.stop_gradient(alibi_slopes_N)
    arrays = (q_BTNH, k_BSKH, v_BSKH, q_segment_ids_BT, kv_segment_ids_BS)
    if implementation == "reference":
        return reference.attention(*arrays, q_offset, alibi_slopes_N, options)
    name = choose(q_BTNH, k_BSKH, options, implementation)
    if name == "xla" and xla.is_short(q_BTNH, k_BSKH):
        return xla.short(*arrays, q_offset, alibi_slopes_N, options)
    return _flash(options, name, *arrays, jnp.int32(q_offset), alibi_slopes_N)


def attention_weights(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    *,
    q_segment_ids_BT: jax.Array,
    kv_segment_ids_BS: jax.Array,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
) -> jax.Array:
    """weights_BNTS float32, causal: what every query gives every key, by the reference.

    They sum to 1 over the keys that a query sees and are 0 elsewhere; `reference.mix` of them and
    the values is `attention`. B x N x T x S numbers are held.
    """
    options = make_options(q_BTNH, True, window, softcap, scale)
    return reference.weights(q_BTNH, k_BSKH, q_segment_ids_BT, kv_segment_ids_BS, 0, None, options)


def attention_forward(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    q_segment_ids_BT: jax.Array,
    kv_segment_ids_BS: jax.Array,
    q_offset: jax.Array | int = 0,
    causal: bool = True,
    window: int | None = None,
    softcap: float | None = None,
    alibi_slopes_N: jax.Array | None = None,
    scale: float | None = None,
    implementation: Implementation | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`attention` and its log-sum-exp; not differentiable.

    Returns:
      out_BTNH, and lse_BNT, float32: the logarithm of the sum of exp(score) over the visible
      keys, -inf for a query that sees none. Two results over disjoint keys merge by
      out = sum_i exp(lse_i - lse) out_i, lse = logsumexp_i(lse_i).
    """
    options = make_options(q_BTNH, causal, window, softcap, scale)
    name = choose(q_BTNH, k_BSKH, options, implementation)
    return kernel(name).forward(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        q_segment_ids_BT,
        kv_segment_ids_BS,
        jnp.int32(q_offset),
        alibi_slopes_N,
        options,
    )


def attention_backward(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    out_BTNH: jax.Array,
    lse_BNT: jax.Array,
    dout_BTNH: jax.Array,
    *,
    q_segment_ids_BT: jax.Array,
    kv_segment_ids_BS: jax.Array,
    q_offset: jax.Array | int = 0,
    causal: bool = True,
    window: int | None = None,
    softcap: float | None = None,
    alibi_slopes_N: jax.Array | None = None,
    scale: float | None = None,
    implementation: Implementation | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients (dq_BTNH, dk_BSKH, dv_BSKH) that flow through these keys.

    Where the keys are a part of all keys, `out` and `lse` are those over all keys (merged); the
    parts' dq then sum to the whole one.

    Args:
      out_BTNH, lse_BNT: from `attention_forward`, merged.
      dout_BTNH: the gradient of out, same dtype.
      the others: as in `attention`.

    Source: FlashAttention-2 (Dao 2023), section 3.1.2: p = exp(score - lse), and the softmax's
    gradient p * (dout v^T - sum(out * dout)).
    """
    options = make_options(q_BTNH, causal, window, softcap, scale)
    name = choose(q_BTNH, k_BSKH, options, implementation)
    return kernel(name).backward(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        q_segment_ids_BT,
        kv_segment_ids_BS,
        jnp.int32(q_offset),
        alibi_slopes_N,
        options,
        out_BTNH,
        lse_BNT,
        dout_BTNH,
    )


def kernel(name: Implementation) -> ModuleType:
    """The module of this name, imported when it is first asked for: Pallas takes half a second.

    It has `forward` and `backward`, with the arguments that xla.py's have, and each but xla.py has
    `takes(q_BTNH, k_BSKH, options)`, which says whether it can.
    """
    return importlib.import_module(f"{__package__}.{name}")


def make_options(q_BTNH, causal, window, softcap, scale) -> Options:
    if window is not None and not causal:
        raise UserError("a window reaches back from the query; set causal=True to use one")
    return Options(causal, window, softcap, q_BTNH.shape[-1] ** -0.5 if scale is None else scale)


def choose(q_BTNH, k_BSKH, options: Options, implementation: Implementation | None) -> str:
    """The name of the kernel that computes this call."""
    platform, chip = target()
    name = implementation
    if name is None:
        name = PREFERRED.get(platform, "xla") if is_local() else "xla"
    if name != "xla" and not kernel(name).takes(q_BTNH, k_BSKH, options):
        name = "xla"
    _log_once(chip, q_BTNH.shape[1:], k_BSKH.shape[1:3], q_BTNH.dtype.name, name)
    return name


def target() -> tuple[str, str]:
    """(platform, chip) that is compiled for: the mesh in use names it, else the default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return device.platform, device.device_kind


def is_local() -> bool:
    """Whether arrays are whole or inside a `jax.shard_map`; XLA cannot partition a kernel."""
    mesh = jax.sharding.get_abstract_mesh()
    return all(
        size == 1 or kind == jax.sharding.AxisType.Manual
        for size, kind in zip(mesh.axis_sizes, mesh.axis_types)
    )


@functools.cache
def _log_once(chip: str, q_TNH, kv_SK, dtype: str, name: str) -> None:
    logging.getLogger(__name__).info(
        "attention on %s, queries %s, keys %s, %s: %s", chip, q_TNH, kv_SK, dtype, name
    )


# The residuals are the inputs, the output and its log-sum-exp: nothing of size T x S.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _flash(options, name, *inputs):
    return kernel(name).forward(*inputs, options)[0]


def _flash_forward(options, name, *inputs):
    out_BTNH, lse_BNT = kernel(name).forward(*inputs, options)
    return out_BTNH, (inputs, out_BTNH, lse_BNT)


def _flash_backward(options, name, residuals, dout_BTNH):
    inputs, out_BTNH, lse_BNT = residuals
    gradients = kernel(name).backward(*inputs, options, out_BTNH, lse_BNT, dout_BTNH)
    return *gradients, None, None, None, None


_flash.defvjp(_flash_forward, _flash_backward)
