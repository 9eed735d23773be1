"""The one public decode-attention function; `reference.py` is its specification."""

import functools
import importlib
import logging
from types import ModuleType
from typing import Literal

import jax
import jax.numpy as jnp

from gpt_jax.errors import UserError
from gpt_jax.kernels.attention.api import is_local, target
from gpt_jax.kernels.decode_attention.layout import Cache, Options

Implementation = Literal["reference", "xla", "pallas_tpu", "pallas_gpu"]

# Of the implementations, those that cannot take everything.
KERNELS = ("pallas_tpu", "pallas_gpu")
# What `implementation=None` tries on a platform before "xla". GPUs are not here yet: on none has
# the kernel been measured.
PREFERRED = {"tpu": "pallas_tpu"}


def decode_attention(
    q_BTNH: jax.Array,
    k_RSKH: jax.Array,
    v_RSKH: jax.Array,
    *,
    lengths_B: jax.Array | int,
    q_segment_ids_BT: jax.Array | None = None,
    kv_segment_ids_BS: jax.Array | None = None,
    k_scale_RKS: jax.Array | None = None,
    v_scale_RKS: jax.Array | None = None,
    page_table_BP: jax.Array | None = None,
    layer: jax.Array | int | None = None,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    """Attention of T new tokens per row (T is one or a few) against a cache that holds them.

    Row b's cache has `lengths_B[b]` entries in use, the T new ones last: token t sits at index
    `lengths_B[b] - T + t` and reads the entries up to its own. The entries behind them may hold
    any finite numbers. A token that may read nothing gets 0.

    The cache is contiguous (row b of `k_RSKH` is row b of the batch: R = B), or paged: its rows
    are pages of S entries, of which `page_table_BP[b]` lists row b's in order (Kwon et al. 2023).
    It is bfloat16 or float32, or int8 with one factor per entry and head (`quantize` makes them).
    With `layer`, the caches (and factors) of all layers are handed over with a leading axis and
    one is read where it lies: a kernel's operand is a whole array, so a slice would be a copy.
    TPUs tile the last two axes of what they store: keep a cache as [..., S, K * H] and reshape it
    for the call, then the kernel finds it in the layout that it reads.

    XLA splits its own path over a mesh, but no kernel: for one, call this inside `jax.shard_map`.

    Args:
      q_BTNH: float32 or bfloat16. N must be a multiple of K; query head n reads key/value head
        n // (N // K).
      k_RSKH, v_RSKH: in the dtype of q, or int8.
      lengths_B: int32, or one number for all rows; at least T, or 0 for a row without entries.
      q_segment_ids_BT, kv_segment_ids_BS: int32, both or neither: a token reads only entries with
        its own id, 0 is padding. Paged: S is counted along the row's P pages.
      k_scale_RKS, v_scale_RKS: float32, for int8 entries: key = k_RSKH * k_scale.
      page_table_BP: int32; places beyond a row's length are not read.
      layer: int32 scalar, may be traced: the leading axis of the caches to read.
      window: how many entries a token sees at the most, its own included (Beltagy et al. 2020).
      softcap: squashes scaled scores to cap * tanh(score / cap) (Gemma team 2024, section 2).
      scale: H**-0.5 by default.
      implementation: "reference" (plain float32), "xla" (any device), None (the fastest for this
        device). A kernel that cannot take these shapes leaves them to "xla".

    Returns:
      out_BTNH in the dtype of q; the softmax is taken in float32. The kernels have no gradient.

    Raises:
      UserError: if only one of two arguments that belong together is given.

    Source: Flash-Decoding (Dao et al. 2023): the entries are split into parts whose softmaxes are
    merged by their log-sum-exp. Grouped heads: Ainslie et al. 2023.
    """
    if (q_segment_ids_BT is None) != (kv_segment_ids_BS is None):
        raise UserError("give segment ids to both the queries and the cache, or to neither")
    if {k_scale_RKS is not None, v_scale_RKS is not None} != {k_RSKH.dtype == jnp.int8}:
        raise UserError("an int8 cache needs k_scale and v_scale, and no other cache takes them")
    arrays = (k_RSKH, v_RSKH, k_scale_RKS, v_scale_RKS)
    if layer is None:
        layer, arrays = 0, tuple(x if x is None else x[None] for x in arrays)
    cache = Cache(*arrays, layer, page_table_BP)
    lengths_B = jnp.broadcast_to(jnp.int32(lengths_B), q_BTNH.shape[:1])
    options = Options(q_BTNH.shape[-1] ** -0.5 if scale is None else scale, window, softcap)
    name = choose(q_BTNH, cache, implementation)
    return kernel(name).decode_attention(
        q_BTNH, cache, lengths_B, q_segment_ids_BT, kv_segment_ids_BS, options
    )


def kernel(name: Implementation) -> ModuleType:
    """The module of this name, imported when it is first asked for: Pallas takes half a second.

    It has `decode_attention`, with the arguments that reference.py's has; those in KERNELS have
    `takes(q_BTNH, cache)` too, which says whether they can.
    """
    return importlib.import_module(f"{__package__}.{name}")


def choose(q_BTNH: jax.Array, cache: Cache, implementation: Implementation | None) -> str:
    """The name of the kernel that computes this call."""
    platform, chip = target()
    name = implementation or PREFERRED.get(platform, "xla")
    if name in KERNELS and not (is_local() and kernel(name).takes(q_BTNH, cache)):
        name = "xla"
    layout = "contiguous" if cache.page_table_BP is None else "paged"
    entries = cache.k_LRSKH
    _log_once(chip, q_BTNH.shape[1:], layout, entries.dtype.name, entries.shape[2:4], name)
    return name


@functools.cache
def _log_once(chip: str, q_TNH, layout: str, dtype: str, kv_SK, name: str) -> None:
    logging.getLogger(__name__).info(
        "decode attention on %s, queries %s, %s %s cache %s: %s",
        *(chip, q_TNH, layout, dtype, kv_SK, name),
    )
