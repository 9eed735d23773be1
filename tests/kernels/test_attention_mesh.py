"""Attention over meshes of eight devices against the kernels' reference on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.kernels import attention as kernels
from gpt_jax.kernels.attention.over_mesh import attention
from gpt_jax.kernels.decode_attention.over_mesh import decode_attention
from gpt_jax.parallel.mesh import MeshConfig, make_mesh

RINGS = {
    "two": MeshConfig(data=2, fsdp=2, context=2),
    "four": MeshConfig(data=1, context=4, tensor=2),
    "eight": MeshConfig(data=1, context=8),
}
OPTIONS = {
    "causal": {},
    "full": {"causal": False},
    "window": {"window": 5},
    "wide window": {"window": 21, "softcap": 2.0},
    "alibi": {"alibi": True},
}


def inputs(B=4, T=32, N=4, K=2, H=8, S=None):
    rng = np.random.default_rng(0)
    S = S or T
    q, k, v, dout = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H))
    )
    # Segments that end anywhere, one of one token, padding inside a row, and a row of padding.
    ids = np.sort(rng.integers(1, 4, (B, S)), axis=1).astype(np.int32)
    ids[0, S // 2 : S // 2 + 3] = 0
    ids[1, 7] = 9
    ids[2] = 0
    return q, k, v, dout, ids


def out_and_gradients(function, q, k, v, dout, q_ids, kv_ids, **options):
    def out_of(q, k, v):
        return function(q, k, v, q_segment_ids_BT=q_ids, kv_segment_ids_BS=kv_ids, **options)

    @jax.jit
    def compute(q, k, v):
        out, pull = jax.vjp(out_of, q, k, v)
        return out, *pull(dout)

    return compute(q, k, v)


def options_of(name, N):
    options = dict(OPTIONS[name])
    if options.pop("alibi", False):
        options["alibi_slopes_N"] = jnp.arange(1, N + 1) / 10.0
    return options


def close(ours, theirs):
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "ring"),
    [*((name, "four") for name in OPTIONS), ("causal", "two"), ("causal", "eight")],
)
def test_the_ring_equals_one_device(name, ring):
    """Break it: hand `_pairs` another offset, or send the gradients one hop too few."""
    *arrays, ids = inputs()
    options = options_of(name, 4)
    theirs = out_and_gradients(
        kernels.attention, *arrays, ids, ids, implementation="reference", **options
    )
    with jax.set_mesh(make_mesh(RINGS[ring])):
        close(out_and_gradients(attention, *arrays, ids, ids, **options), theirs)


def test_rows_and_heads_over_a_mesh():
    """Fewer key heads than `tensor`, and an offset known at run time only."""
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    q, k, v, dout, ids = inputs()
    new = slice(20, 29)

    def compute(function, **options):
        arrays = (q[:, new], k, v, dout[:, new], ids[:, new], ids)
        return out_and_gradients(function, *arrays, q_offset=jnp.int32(20), **options)

    theirs = compute(kernels.attention, implementation="reference")
    with jax.set_mesh(mesh):
        close(compute(attention), theirs)


@pytest.mark.parametrize("rows", [4, 3])
def test_decoding_over_a_mesh(rows):
    """Three rows do not divide: every device then has them all."""
    q, k, v, _, ids = (x[:rows] for x in inputs())
    cache = dict(layer=jnp.int32(1), lengths_B=jnp.int32(29))
    segments = dict(q_segment_ids_BT=ids[:, 28:29], kv_segment_ids_BS=ids)
    arrays = (q[:, 28:29], np.stack([0 * k, k]), np.stack([0 * v, v]))
    theirs = kernels.attention(arrays[0], k, v, **segments, q_offset=28, implementation="reference")
    with jax.set_mesh(make_mesh(MeshConfig(data=2, tensor=2, context=2))):
        out = jax.jit(lambda *arrays: decode_attention(*arrays, **cache, **segments))(*arrays)
    np.testing.assert_allclose(out, theirs, atol=1e-5)
