"""The products of a model's layers in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.models import adapted

X_MI, W_IO, G_MO = (
    jax.random.normal(jax.random.key(k), shape).astype(jnp.bfloat16)
    for k, shape in enumerate([(8, 48), (48, 16), (8, 16)])
)


def with_gradients(x_MI, w_IO, g_MO):
    y_MO, back = jax.vjp(adapted.matmul, x_MI, w_IO)
    return y_MO, *back(g_MO)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_sums_are_float32_and_rounded_once(platform, monkeypatch):
    """Against NumPy in float64. Break it: sum in bfloat16, whose error grows with the summands."""
    monkeypatch.setattr(adapted, "platform", lambda: platform)
    found = with_gradients(X_MI, W_IO, G_MO)
    x, w, g = (np.asarray(a, np.float64) for a in (X_MI, W_IO, G_MO))
    for one, exact in zip(found, (x @ w, g @ w.T, x.T @ g), strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(one, np.float64), exact, rtol=2**-8, atol=1e-5)


def test_on_a_cpu_operands_stay_bfloat16():
    """Its own bfloat16 products are five times as fast as float32's. Break it: `x @ w`, before
    which XLA casts both."""
    text = jax.jit(with_gradients).lower(X_MI, W_IO, G_MO).as_text()
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert len(dots) == 3
    for line in dots:
        operands, result = line.rpartition(": ")[2].split(" -> ")
        assert operands.count("bf16") == 2 and result.endswith("xf32>"), line
