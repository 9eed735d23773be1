"""Adam with moments that take less memory than float32 ones, and float32 masters.

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    update = m' / (sqrt(v') + eps),    m' = m / (1 - b1^t),  v' = v / (1 - b2^t)

(Kingma & Ba 2015, algorithm 1.) What m and v take, in bytes per parameter:

    float32    8    optax's
    bfloat16   4    v is rounded at random: rounded to nearest, it would stand still, since a step
                    changes it by less (1 - b2) than half the distance of two numbers (2^-9)
    factored   2    m as above; of a matrix's v only the means of its rows and columns are kept,
                    v = rows cols / mean(rows) (Shazeer & Stern 2018, algorithm 2)
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt_jax.parallel import rules

Moments = Literal["float32", "bfloat16", "factored"]


class AdamState(NamedTuple):
    """Attributes: count, int32, of updates; mu and nu, trees like the parameters, of which nu's
    matrices may be `Factors`."""

    count: jax.Array
    mu: Any
    nu: Any


class Factors(NamedTuple):
    """Means of the second moment over the last axis (row) and over the one before (col)."""

    row: jax.Array
    col: jax.Array


def scale_by_adam(
    b1: float, b2: float, eps: float, moments: Moments, axes: rules.Axes
) -> optax.GradientTransformation:
    """Adam's update of float32 gradients, with the moments kept as `moments` says.

    `axes` are the logical axes of the parameters, which say what is a matrix. With bfloat16 moments
    `update` takes a `key`, of its own for every update.
    """
    if moments == "float32":
        return optax.scale_by_adam(b1, b2, eps)

    def init(params):
        def nu(path, p):
            if moments == "factored" and _is_matrix(axes, path, p):
                shape = p.shape
                return Factors(jnp.zeros(shape[:-1]), jnp.zeros(shape[:-2] + shape[-1:]))
            return jnp.zeros(p.shape, jnp.bfloat16 if moments == "bfloat16" else jnp.float32)

        mu = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.bfloat16), params)
        return AdamState(jnp.zeros((), jnp.int32), mu, jax.tree_util.tree_map_with_path(nu, params))

    def update(grads, state, params=None, *, key=None, **others):
        del params, others
        count = optax.safe_increment(state.count)
        leaves, tree = jax.tree.flatten(grads)
        keys = jax.random.split(key, len(leaves)) if moments == "bfloat16" else [None] * len(leaves)

        def one(key, g, mu, nu):
            m = b1 * mu.astype(jnp.float32) + (1 - b1) * g
            if isinstance(nu, Factors):
                squares = jnp.square(g) + 1e-30  # the paper's; rows of zeros divide by no zero
                row = b2 * nu.row + (1 - b2) * squares.mean(axis=-1)
                col = b2 * nu.col + (1 - b2) * squares.mean(axis=-2)
                share = row / row.mean(axis=-1, keepdims=True)
                v, nu = share[..., None] * col[..., None, :], Factors(row, col)
            else:
                v = b2 * nu.astype(jnp.float32) + (1 - b2) * jnp.square(g)
                nu = round_at_random(key, v) if nu.dtype == jnp.bfloat16 else v
            scaled = m / (1 - b1**count) / (jnp.sqrt(v / (1 - b2**count)) + eps)
            return scaled, m.astype(jnp.bfloat16), nu

        mus, nus = tree.flatten_up_to(state.mu), tree.flatten_up_to(state.nu)
        results = [one(*args) for args in zip(keys, leaves, mus, nus, strict=True)]
        updates, mu, nu = (tree.unflatten(part) for part in zip(*results, strict=True))
        return updates, AdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_matrix(axes: rules.Axes, path: tuple, leaf: jax.Array) -> bool:
    return rules.is_matrix(rules.find_axes(axes, rules.path_name(path), leaf.ndim))


def round_at_random(key: jax.Array, x: jax.Array) -> jax.Array:
    """float32 -> bfloat16, up or down with the odds that make the mean of it exact."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits = (bits + jax.random.bits(key, x.shape, jnp.uint16)) >> 16  # adds below the cut
    return jax.lax.bitcast_convert_type(bits.astype(jnp.uint16), jnp.bfloat16)


class Masters(NamedTuple):
    """Attributes: masters, the float32 parameters; inner, the state of the optimizer of them."""

    masters: Any
    inner: Any


def keep_masters(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Optimizes float32 masters of parameters that are themselves kept in bfloat16.

    A step may change a parameter by less than bfloat16 resolves; the master remembers (mixed
    precision training, Micikevicius et al. 2018, section 3.1). See `state.stored`.
    """

    def init(params):
        masters = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        return Masters(masters, optimizer.init(masters))

    def update(grads, state, params, **extra):
        updates, inner = optimizer.update(grads, state.inner, state.masters, **extra)
        masters = optax.apply_updates(state.masters, updates)
        # Added to the parameters in float32 and rounded, these give the rounded masters.
        updates = jax.tree.map(lambda m, p: m - p.astype(jnp.float32), masters, params)
        return updates, Masters(masters, inner)

    return optax.GradientTransformationExtraArgs(init, update)
