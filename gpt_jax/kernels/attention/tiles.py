"""Which tiles of the scores a kernel must visit, and which of those need no mask.

A query tile meets, from the first key tile to the last:

    hidden | some hidden | all visible | some hidden | hidden
           first         full          full_end      end

(a window or the start of a document on the left, the diagonal or the end of a document on the
right). The kernels skip the hidden tiles, and build a mask only for tiles with some hidden keys.
The same four numbers, the other way round, bound the query tiles that a key tile meets.
"""

import jax
import jax.numpy as jnp


def visible_tiles(q_segment_ids_BT, kv_segment_ids_BS, q_offset, options, q_tile, k_tile):
    """(bounds_BI4 of key tiles per query tile, bounds_BJ4 of query tiles per key tile), int32.

    Each row is (first, full, full_end, end) with first <= full <= full_end <= end; a tile that
    meets nothing has first == end. Tiles past the end of an array count as padding.
    """
    q_low_BI, q_high_BI, q_one_BI = _segment_range(q_segment_ids_BT, q_tile)
    k_low_BJ, k_high_BJ, k_one_BJ = _segment_range(kv_segment_ids_BS, k_tile)
    q_first_I1 = q_offset + q_tile * jnp.arange(q_low_BI.shape[1])[:, None]
    k_first_J = k_tile * jnp.arange(k_low_BJ.shape[1])
    q_last_I1, k_last_J = q_first_I1 + q_tile - 1, k_first_J + k_tile - 1

    some_BIJ = (q_low_BI[:, :, None] <= k_high_BJ[:, None]) & (
        k_low_BJ[:, None] <= q_high_BI[:, :, None]
    )
    full_BIJ = (q_one_BI[:, :, None] & k_one_BJ[:, None]) & (
        q_low_BI[:, :, None] == k_low_BJ[:, None]
    )
    if options.causal:
        some_BIJ &= k_first_J <= q_last_I1
        full_BIJ &= k_last_J <= q_first_I1
    if options.window is not None:
        some_BIJ &= k_last_J > q_first_I1 - options.window
        full_BIJ &= k_first_J > q_last_I1 - options.window
    return _bounds(some_BIJ, full_BIJ), _bounds(some_BIJ.mT, full_BIJ.mT)


def loop_over(bounds, step, carry):
    """carry = step(tile, carry, masked) for every visited tile, in order."""
    first, full, full_end, end = bounds
    carry = jax.lax.fori_loop(first, full, lambda j, c: step(j, c, masked=True), carry)
    carry = jax.lax.fori_loop(full, full_end, lambda j, c: step(j, c, masked=False), carry)
    return jax.lax.fori_loop(full_end, end, lambda j, c: step(j, c, masked=True), carry)


def _segment_range(segment_ids_BT, tile):
    """(lowest id, highest id, whether all are one document) of each tile; padding has no id."""
    B, T = segment_ids_BT.shape
    ids_BIt = jnp.pad(segment_ids_BT, ((0, 0), (0, -T % tile))).reshape(B, -1, tile)
    limits = jnp.iinfo(ids_BIt.dtype)
    low_BI = jnp.where(ids_BIt == 0, limits.max, ids_BIt).min(axis=2)
    high_BI = jnp.where(ids_BIt == 0, limits.min, ids_BIt).max(axis=2)
    return low_BI, high_BI, (low_BI == high_BI) & (ids_BIt != 0).all(axis=2)


def _bounds(some_BIJ, full_BIJ):
    index_J = jnp.arange(some_BIJ.shape[2])

    def end_of(tiles_BIJ):
        return jnp.where(tiles_BIJ, index_J + 1, 0).max(axis=2)

    end = end_of(some_BIJ)
    first = jnp.minimum(jnp.where(some_BIJ, index_J, index_J.size).min(axis=2), end)
    # The last unbroken run of full tiles; without one the bounds close up at the end.
    full_end = end_of(full_BIJ)
    full = end_of(~full_BIJ & (index_J < full_end[:, :, None]))
    full, full_end = jnp.where(full_end == 0, end, jnp.stack((full, full_end)))
    return jnp.stack((first, full, full_end, end), axis=2).astype(jnp.int32)
