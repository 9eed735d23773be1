"""Attention against a float64 loop, and the fast path against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.kernels.attention import attention, attention_backward, attention_forward

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


def test_parts_of_the_keys_merge_by_log_sum_exp():
    """What ring attention does, with an offset that hides the second part from some queries."""
    (q, k, v), segments = inputs(12, 12)
    segments[1] = 0
    dout = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)

    def part(keys, function, *saved):
        return function(
            q,
            k[:, keys],
            v[:, keys],
            *saved,
            q_segment_ids_BT=segments,
            kv_segment_ids_BS=segments[:, keys],
            q_offset=jnp.int32(-keys.start),
        )

    halves = slice(0, 5), slice(5, 12)
    out, lse = part(slice(0, 12), attention_forward)
    outs, lses = zip(*(part(keys, attention_forward) for keys in halves))
    assert np.isneginf(lses[1][:, :, :5]).all()
    assert np.isneginf(lse[1]).all() and np.isfinite(lse[0][:, segments[0] != 0]).all()
    merged = jnp.logaddexp(*lses)
    np.testing.assert_allclose(merged, lse, atol=1e-6)
    shares = [jnp.where(jnp.isneginf(x), 0.0, jnp.exp(x - merged)).mT[..., None] for x in lses]
    np.testing.assert_allclose(sum(x * y for x, y in zip(outs, shares)), out, atol=1e-6)

    whole = part(slice(0, 12), attention_backward, out, lse, dout)
    (dq, *first), (more_dq, *second) = (
        part(keys, attention_backward, out, lse, dout) for keys in halves
    )
    np.testing.assert_allclose(dq + more_dq, whole[0], atol=2e-6)
    for one, other, both in zip(first, second, whole[1:]):
        np.testing.assert_allclose(np.concatenate([one, other], axis=1), both, atol=2e-6)


def test_long_sequences_take_the_blockwise_path_and_slopes_are_constants():
    (q, k, v), segments = inputs(600, 600, N=2, K=1, B=1)

    def loss(arrays, slopes, implementation):
        out = attention(
            *arrays,
            q_segment_ids_BT=segments,
            kv_segment_ids_BS=segments,
            window=70,
            alibi_slopes_N=slopes,
            implementation=implementation,
        )
        return jnp.square(out).sum()

    slopes = jnp.array([0.5, 0.1])
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    ours, of_slopes = gradient((q, k, v), slopes, "xla")
    expected, _ = gradient((q, k, v), slopes, "reference")
    for one, other in zip(ours, expected):
        np.testing.assert_allclose(one, other, atol=2e-5)
    np.testing.assert_array_equal(of_slopes, 0.0)
    program = gradient.lower((q, k, v), slopes, "xla").as_text()
    assert "600x600" not in program


def test_a_window_needs_causal():
    (q, k, v), segments = inputs(4, 4)
    with pytest.raises(UserError, match="causal"):
        attention(
            q,
            k,
            v,
            q_segment_ids_BT=segments,
            kv_segment_ids_BS=segments,
            causal=False,
            window=2,
        )


def test_the_choice_is_logged_once(caplog):
    (q, k, v), segments = inputs(5, 5, B=1)
    with caplog.at_level("INFO"):
        for _ in range(2):
            attention(q, k, v, q_segment_ids_BT=segments, kv_segment_ids_BS=segments)
    assert [r.message for r in caplog.records if r.message.startswith("attention on cpu")] == [
        "attention on cpu, queries (5, 4, 8), keys (5, 2), float32: xla"
    ]
