"""Attention against a float64 loop, and the fast path against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.kernels.attention import attention

IMPLEMENTATIONS = ("reference", "xla")


def naive(q, k, v, q_segments, kv_segments, q_offset, causal):
    """One query at a time, float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    B, T, N, H = q.shape
    group = N // k.shape[2]
    for b, t, n in np.ndindex(B, T, N):
        seen = [
            s
            for s in range(k.shape[1])
            if kv_segments[b, s] == q_segments[b, t] != 0 and (not causal or s <= q_offset + t)
        ]
        if seen:
            scores = k[b, seen, n // group] @ q[b, t, n] / np.sqrt(H)
            weights = np.exp(scores - scores.max())
            out[b, t, n] = weights / weights.sum() @ v[b, seen, n // group]
    return out


def inputs(T, S, N=4, K=2, H=8, B=3, seed=0):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape) for shape in ((B, T, N, H), (B, S, K, H), (B, S, K, H))]
    segments = np.sort(rng.integers(0, 3, (B, S)), axis=1).astype(np.int32)
    segments[0, S // 2] = 0  # A hole, which right and left padding do not have.
    return [x.astype(np.float32) for x in arrays], segments


CASES = {
    "causal": dict(T=9, S=9, offset=0, causal=True),
    "full": dict(T=9, S=9, offset=0, causal=False),
    "cached": dict(T=3, S=12, offset=6, causal=True),
    "decode": dict(T=1, S=12, offset=11, causal=True),
    "equal heads": dict(T=6, S=6, offset=0, causal=True, K=4),
    "one kv head": dict(T=6, S=6, offset=0, causal=True, K=1),
    "query blocks": dict(T=131, S=131, offset=0, causal=True, B=2, N=2, K=1, H=4),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES)
def test_forward_equals_float64_loop(case, implementation):
    case = dict(CASES[case])
    offset, causal, T = case.pop("offset"), case.pop("causal"), case["T"]
    (q, k, v), kv_segments = inputs(**case)
    q_segments = kv_segments[:, offset : offset + T]
    out = attention(
        q,
        k,
        v,
        q_segment_ids_BT=q_segments,
        kv_segment_ids_BS=kv_segments,
        q_offset=offset,
        causal=causal,
        implementation=implementation,
    )
    expected = naive(q, k, v, q_segments, kv_segments, offset, causal)
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("case", ["causal", "full", "cached", "query blocks"])
def test_gradients_equal_the_reference(case):
    case = dict(CASES[case])
    offset, causal, T = case.pop("offset"), case.pop("causal"), case["T"]
    arrays, kv_segments = inputs(**case)
    weights = np.random.default_rng(1).normal(size=arrays[0].shape)

    def gradients(implementation):
        def loss(q, k, v):
            out = attention(
                q,
                k,
                v,
                q_segment_ids_BT=kv_segments[:, offset : offset + T],
                kv_segment_ids_BS=kv_segments,
                q_offset=offset,
                causal=causal,
                implementation=implementation,
            )
            return (out * weights).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)

    for ours, reference in zip(gradients("xla"), gradients("reference"), strict=True):
        np.testing.assert_allclose(ours, reference, atol=5e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_fully_masked_rows_give_zero_and_finite_gradients(implementation):
    """Break it: drop the `jnp.where` around the sum in xla.py, or the outer one in reference.py."""
    (q, k, v), segments = inputs(6, 6)
    segments[1] = 0

    def loss(q, k, v):
        out = attention(
            q,
            k,
            v,
            q_segment_ids_BT=segments,
            kv_segment_ids_BS=segments,
            implementation=implementation,
        )
        return jnp.square(out).sum(), out

    gradients, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    np.testing.assert_array_equal(out[segments == 0], 0.0)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[1], 0.0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_extreme_scores_stay_finite(implementation):
    (q, k, v), segments = inputs(6, 6)
    out = attention(
        1e4 * q,
        1e3 * k,
        v,
        q_segment_ids_BT=segments,
        kv_segment_ids_BS=segments,
        implementation=implementation,
    )
    assert np.isfinite(out).all()


def test_bfloat16_is_close_to_the_float32_reference():
    (q, k, v), segments = inputs(9, 9)
    low = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    out = attention(*low, q_segment_ids_BT=segments, kv_segment_ids_BS=segments)
    assert out.dtype == jnp.bfloat16
    expected = naive(*(x.astype(jnp.float32) for x in low), segments, segments, 0, True)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=2e-2)
