"""Dropout (Srivastava et al. 2014), drawn for a token of a row, whatever lies around it.

What a token drops depends on the key of the step, its row in the batch, its segment and position,
the layer and the purpose (invariant 10), and on nothing else: not on padding, on other rows or on
how the batch lies over devices (invariants 1 and 5). A weight of the attention is drawn for both
its tokens. Micro-batches are batches of their own: they draw other masks than the whole would.
"""

import enum
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Tokens


class Purpose(enum.IntEnum):
    """What is dropped; one draw for each."""

    EMBEDDING = 0
    WEIGHTS = 1
    ATTENTION = 2
    MLP = 3


class Draws(NamedTuple):
    """What is drawn from: a key for every token, and the positions, which name the keys' tokens."""

    keys_BT: jax.Array
    positions_BT: jax.Array

    def of_layer(self, layer: jax.Array) -> "Draws":
        """What one layer draws from."""
        return self._replace(keys_BT=_fold_in(self.keys_BT, layer))


def draws_of(key: jax.Array, tokens_BT: Tokens) -> Draws:
    """What the tokens of a batch draw from in this step."""
    rows_B1 = jnp.arange(tokens_BT.ids.shape[0])[:, None]
    keys_BT = _fold_in(key, rows_B1)
    for numbers_BT in (tokens_BT.segment_ids, tokens_BT.positions):
        keys_BT = _fold_in(keys_BT, numbers_BT)
    return Draws(keys_BT, jnp.asarray(tokens_BT.positions))


def drop(x_BTD: jax.Array, rate: float, draws: Draws | None, purpose: Purpose) -> jax.Array:
    """0 where dropped, x / (1 - rate) elsewhere; without draws, or at a rate of 0, just x."""
    if draws is None or not rate:
        return x_BTD
    kept_BTD = _kept(_fold_in(draws.keys_BT, purpose), rate, x_BTD.shape[-1])
    return jnp.where(kept_BTD, x_BTD / (1 - rate), 0).astype(x_BTD.dtype)


def drop_weights(weights_BNTS: jax.Array, rate: float, draws: Draws | None) -> jax.Array:
    """`drop` of the weights that tokens give to those of their own row and segment."""
    if draws is None or not rate:
        return weights_BNTS
    keys_BT1 = _fold_in(draws.keys_BT, Purpose.WEIGHTS)[:, :, None]
    keys_BTS = _fold_in(keys_BT1, draws.positions_BT[:, None, :])
    kept_BNTS = jnp.moveaxis(_kept(keys_BTS, rate, weights_BNTS.shape[1]), -1, 1)
    return jnp.where(kept_BNTS, weights_BNTS / (1 - rate), 0)


def _fold_in(keys: jax.Array, numbers: jax.Array | int) -> jax.Array:
    """`jax.random.fold_in` of keys and numbers whose shapes broadcast."""
    shape = jnp.broadcast_shapes(keys.shape, jnp.shape(numbers))
    return _each(jax.random.fold_in, shape)(
        jnp.broadcast_to(keys, shape), jnp.broadcast_to(jnp.uint32(numbers), shape)
    )


def _kept(keys: jax.Array, rate: float, count: int) -> jax.Array:
    """Booleans, `count` for every key on a last axis of their own, True with odds of 1 - rate."""
    bits = _each(lambda key: jax.random.bits(key, (count,)), keys.shape)(keys)
    return bits >= jnp.uint32(int(rate * 2**32))


def _each(function: Callable, shape: tuple[int, ...]) -> Callable:
    """The function of arrays of this shape, number by number; no axis that is split is merged."""
    for _ in shape:
        function = jax.vmap(function)
    return function
