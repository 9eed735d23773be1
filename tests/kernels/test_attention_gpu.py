"""What the parity suite leaves: the GPU kernels' log-sum-exp, their dispatch, the tiles visited."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.kernels.attention import attention, pallas_gpu, triton, xla
from gpt_jax.kernels.attention.scores import Options
from gpt_jax.kernels.attention.tiles import visible_tiles
from tests.kernels.test_attention_parity import Case, make

OPTIONS = Options(causal=True, window=None, softcap=None, scale=1.0)


def test_log_sum_exp_equals_that_of_xla():
    """-inf for the queries before the first key, and nowhere else."""
    case = Case(B=1, T=37, S=51, N=3, K=1, window=11, softcap=3.0, alibi=True, q_offset=-5)
    inputs, _ = make(case._replace(segments="one"), "float32")
    _, ours = triton.forward(*inputs, case.options, blocks=(16, 16, 4, 2))
    _, expected = xla.forward(*inputs, case.options)
    assert np.isneginf(ours).sum() == 5 * 3
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_attention_differentiates_through_the_gpu_kernels():
    case = Case(B=1, T=20, S=20, N=2, K=1)
    (q, k, v, q_segments, kv_segments, *_), dout = make(case, "float32")

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
    ours, expected = (gradient(q, k, v, name) for name in ("pallas_gpu", "reference"))
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("H", [8, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_head_size_has_tiles_and_larger_ones_are_refused(H, dtype):
    q = jax.ShapeDtypeStruct((1, 128, 2, H), dtype)
    assert pallas_gpu.takes(q, q, OPTIONS)
    assert len(pallas_gpu.triton_blocks(q)) == 2
    assert not pallas_gpu.takes(jax.ShapeDtypeStruct((1, 128, 2, 257), dtype), q, OPTIONS)


def seen_by(q_segments, kv_segments, q_offset, options):
    """The dense mask."""
    distance = q_offset + np.arange(q_segments.shape[1])[:, None] - np.arange(kv_segments.shape[1])
    seen = (q_segments[:, :, None] == kv_segments[:, None]) & (q_segments != 0)[:, :, None]
    if options.causal:
        seen = seen & (distance >= 0)
    if options.window is not None:
        seen = seen & (distance < options.window)
    return seen


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
        seen = seen_by(q_segments, kv_segments, q_offset, options)
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
