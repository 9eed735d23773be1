"""Which entries of the cache a new token may read."""

import jax
import jax.numpy as jnp


def visible(
    queries: int,
    entries: int,
    lengths_B: jax.Array,
    q_segment_ids_BT: jax.Array | None,
    kv_segment_ids_BS: jax.Array | None,
    window: int | None,
) -> jax.Array:
    """mask_BTS: True where token t of T = `queries` may read entry s of S = `entries`."""
    index_BT1 = (lengths_B[:, None] - queries + jnp.arange(queries))[:, :, None]
    index_S = jnp.arange(entries)
    mask_BTS = index_S <= index_BT1
    if window is not None:
        mask_BTS &= index_S > index_BT1 - window
    if q_segment_ids_BT is not None:
        q_BT1, kv_B1S = q_segment_ids_BT[:, :, None], kv_segment_ids_BS[:, None, :]
        mask_BTS &= (q_BT1 == kv_B1S) & (q_BT1 != 0)
    return mask_BTS


def read_range(mask_BTS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(first_B, end_B): all entries that any token of a row reads lie in [first, end).

    The kernels skip what lies outside: left padding, what a window has left behind, unused room.
    """
    read_BS = mask_BTS.any(axis=1)
    index_S = jnp.arange(mask_BTS.shape[2])
    first_B = jnp.where(read_BS, index_S, mask_BTS.shape[2]).min(axis=1)
    end_B = jnp.where(read_BS, index_S + 1, 0).max(axis=1)
    return jnp.minimum(first_B, end_B), end_B
