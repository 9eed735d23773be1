"""The GPU kernels in Pallas's interpreter, against dense float64, and the tiles they visit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.kernels.attention import attention, pallas_gpu, triton
from gpt_jax.kernels.attention.scores import Options
from gpt_jax.kernels.attention.tiles import visible_tiles

CASES = {  # B, T, S, N, K, H, q_offset, ALiBi, options
    "causal, one document": (1, 48, 48, 2, 1, 16, 0, False, {}),
    "packed, grouped": (2, 40, 40, 4, 2, 16, 0, False, {}),
    "all options, ragged": (1, 37, 51, 3, 1, 20, 9, True, dict(window=11, softcap=3.0)),
    "full": (2, 33, 20, 2, 2, 8, 0, False, dict(causal=False)),
    "all hidden": (1, 16, 16, 1, 1, 16, -64, False, {}),
}


def draw(B, T, S, N, K, H, dtype, documents):
    rng = np.random.default_rng(T)
    shapes = (B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H)
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    segments = np.sort(rng.integers(0, documents, (B, max(T, S))), axis=1) + (documents == 1)
    segments = segments.astype(np.int32)
    return arrays, segments[:, :T], segments[:, :S]


def seen_by(q_segments, kv_segments, q_offset, options):
    distance = q_offset + np.arange(q_segments.shape[1])[:, None] - np.arange(kv_segments.shape[1])
    seen = (q_segments[:, :, None] == kv_segments[:, None]) & (q_segments != 0)[:, :, None]
    if options.causal:
        seen = seen & (distance >= 0)
    if options.window is not None:
        seen = seen & (distance < options.window)
    return seen, distance


def dense(q, k, v, dout, q_segments, kv_segments, q_offset, slopes, options):
    """(out, lse, dq, dk, dv) in float64, from the formulas alone."""
    q, k, v, dout = (np.asarray(x, np.float64) for x in (q, k, v, dout))
    K, group = k.shape[2], q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    seen, distance = seen_by(q_segments, kv_segments, q_offset, options)
    scores = options.scale * np.einsum("btnh,bsnh->bnts", q, k)
    gain = options.scale
    if options.softcap is not None:
        tanh = np.tanh(scores / options.softcap)
        scores, gain = options.softcap * tanh, gain * (1 - tanh**2)
    if slopes is not None:
        scores = scores - np.asarray(slopes, np.float64)[:, None, None] * distance
    weights = np.where(seen[:, None], np.exp(scores), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = np.log(total[..., 0])
    p = weights / np.where(total == 0, 1, total)
    out = np.einsum("bnts,bsnh->btnh", p, v)
    dp = np.einsum("btnh,bsnh->bnts", dout, v)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) * gain
    dq = np.einsum("bnts,bsnh->btnh", ds, k)
    dk, dv = np.einsum("bnts,btnh->bsnh", ds, q), np.einsum("bnts,btnh->bsnh", p, dout)
    return out, lse, dq, *(x.reshape(*x.shape[:2], K, group, -1).sum(axis=3) for x in (dk, dv))


def error(ours, exact):
    """||ours - exact|| / ||exact||, where both say -inf not counted."""
    ours, exact = np.asarray(ours, np.float64), np.asarray(exact)
    np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(exact))
    both = np.isfinite(exact)
    return np.linalg.norm(ours[both] - exact[both]) / max(np.linalg.norm(exact[both]), 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_triton_kernels_equal_dense_float64(case, dtype):
    """Break it: hide one key more in `visible`, or drop the gain in `scores_gradient`."""
    *shape, q_offset, alibi, changes = CASES[case]
    documents = 1 if case == "causal, one document" else 3
    (q, k, v, dout), q_segments, kv_segments = draw(*shape, dtype, documents)
    options = Options(**{**dict(causal=True, window=None, softcap=None, scale=0.3), **changes})
    slopes = jnp.linspace(0.01, 0.2, q.shape[2]) if alibi else None
    mask = (q_segments, kv_segments, jnp.int32(q_offset), slopes, options)
    blocks = (16, 16, 4, 2)

    @jax.jit
    def run(q, k, v, dout):
        out, lse = triton.forward(q, k, v, *mask, blocks)
        return out, lse, *triton.backward(q, k, v, *mask, out, lse, dout, blocks)

    limits = (1e-5, 1e-5, *[1e-4] * 3) if dtype == "float32" else (5e-3, 5e-3, *[1e-2] * 3)
    exact = dense(q, k, v, dout, *mask)
    for ours, expected, limit in zip(run(q, k, v, dout), exact, limits):
        assert error(ours, expected) <= limit


def test_attention_runs_and_differentiates_through_the_gpu_kernels():
    (q, k, v, dout), q_segments, kv_segments = draw(1, 20, 20, 2, 1, 16, "float32", 2)

    def loss(q, k, v, implementation):
        out = attention(
            q,
            k,
            v,
            q_segment_ids_BT=q_segments,
            kv_segment_ids_BS=kv_segments,
            implementation=implementation,
        )
        return (out * dout).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=3)
    for ours, expected in zip(gradient(q, k, v, "pallas_gpu"), gradient(q, k, v, "reference")):
        assert error(ours, expected) <= 1e-5


@pytest.mark.parametrize("H", [8, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_head_size_has_tiles_and_larger_ones_are_refused(H, dtype):
    options = Options(causal=True, window=None, softcap=None, scale=1.0)
    q = jax.ShapeDtypeStruct((1, 128, 2, H), dtype)
    assert pallas_gpu.takes(q, q, options)
    assert len(pallas_gpu.triton_blocks(q)) == 2
    assert not pallas_gpu.takes(jax.ShapeDtypeStruct((1, 128, 2, 257), dtype), q, options)


@pytest.mark.parametrize("q_offset", [-7, 0, 13])
@pytest.mark.parametrize("window", [None, 1, 9])
@pytest.mark.parametrize("causal", [True, False])
def test_visible_tiles_skip_only_what_is_hidden(causal, window, q_offset):
    """Against the dense mask: nothing visible is skipped, nothing hidden goes unmasked."""
    options = Options(causal=causal, window=window, softcap=None, scale=1.0)
    rng = np.random.default_rng(0)
    for T, S, q_tile, k_tile in [(24, 24, 4, 4), (21, 30, 8, 4), (30, 17, 4, 8)]:
        segments = np.sort(rng.integers(0, 3, (4, 30)), axis=1).astype(np.int32)
        segments[0] = 1
        rng.shuffle(segments[1])
        q_segments, kv_segments = segments[:, :T], segments[:, :S]
        seen, _ = seen_by(q_segments, kv_segments, q_offset, options)
        seen = np.pad(seen, ((0, 0), (0, -T % q_tile), (0, -S % k_tile)))
        tiles = seen.reshape(4, -(-T // q_tile), q_tile, -(-S // k_tile), k_tile)
        some, full = tiles.any(axis=(2, 4)), tiles.all(axis=(2, 4))
        of_q, of_k = visible_tiles(
            q_segments, kv_segments, q_offset, options, q_tile=q_tile, k_tile=k_tile
        )
        exact = T % q_tile == S % k_tile == 0
        check_bounds(np.asarray(of_q), some, full, exact)
        check_bounds(np.asarray(of_k), some.swapaxes(1, 2), full.swapaxes(1, 2), exact)


def check_bounds(bounds, some, full, exact):
    assert bounds.shape == (*some.shape[:2], 4)
    assert (np.diff(bounds, axis=2) >= 0).all()
    for b, i in np.ndindex(some.shape[:2]):
        first, full_first, full_end, end = bounds[b, i]
        assert not some[b, i, :first].any() and not some[b, i, end:].any()
        assert full[b, i, full_first:full_end].all()
        if exact and b == 0:  # One document: no tile is visited, and none masked, without need.
            assert some[b, i, first:end].all()
            assert full_end - full_first == full[b, i].sum()
