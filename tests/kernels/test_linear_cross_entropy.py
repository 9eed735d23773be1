"""Linear cross-entropy: every implementation against float64 NumPy, forward and gradients.

The error is the norm of the difference over the norm of the truth. The truth is computed from the
operands after their rounding to the dtype under test, so it measures the op and not the rounding.
"""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from gpt_jax.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_sum,
    pallas_tpu,
    xla,
)

pytestmark = pytest.mark.usefixtures("optimized")

# (forward, gradients)
TOLERANCE = {jnp.float32: (1e-5, 1e-4), jnp.bfloat16: (5e-3, 1e-2)}


def small_chunks(setattr):
    """Chunks that divide neither tokens nor vocabulary."""
    for name, value in {"FEW_LOGITS": 0, "COLUMNS": 12, "ROWS": 3, "HALVES_ROWS": 7}.items():
        setattr(xla, name, value)


@contextlib.contextmanager
def chunks():
    with pytest.MonkeyPatch.context() as patch:
        small_chunks(patch.setattr)
        yield "xla"


@contextlib.contextmanager
def tpu_tiles():
    """The kernel in an interpreter, its tiles so small that there are several."""
    with pytest.MonkeyPatch.context() as patch, pltpu.force_tpu_interpret_mode():
        for name, value in {"ROWS": 8, "COLUMNS": 16, "WIDTH": 128}.items():
            patch.setattr(pallas_tpu, name, value)
        yield "pallas_tpu"


# One line each: the context in which it runs here, which gives its name.
IMPLEMENTATIONS = {
    "reference": lambda: contextlib.nullcontext("reference"),
    "xla, few logits": lambda: contextlib.nullcontext("xla"),
    "xla, chunks": chunks,
    "pallas_tpu": tpu_tiles,
}


@dataclasses.dataclass(frozen=True)
class Case:
    M: int
    D: int
    V: int
    temperature: float = 1.0
    softcap: float | None = None
    scale: float = 1.0
    seed: int = 0


PHASES = (Phase.explicit, Phase.generate)  # every shape is compiled: no shrinking
CASES = st.builds(
    Case,
    M=st.integers(1, 20),
    D=st.sampled_from([8, 24, 40]),
    V=st.integers(2, 40),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    softcap=st.sampled_from([None, 1.0, 30.0]),
    scale=st.sampled_from([0.01, 1.0, 300.0]),
    seed=st.integers(0, 9),
)


def operands(case, dtype):
    rng = np.random.default_rng(case.seed)
    hidden = jnp.asarray(rng.normal(size=(case.M, case.D)) * case.scale, dtype)
    unembed = jnp.asarray(rng.normal(size=(case.V, case.D)), dtype)
    targets = rng.integers(0, case.V, case.M).astype(np.int32)
    columns = rng.normal(size=(3, case.M)).astype(np.float32)
    columns[:, ::4] = 0.0  # tokens without weight
    return hidden, unembed, targets, columns


def truth(case, hidden, unembed, targets, columns):
    """(logprobs, lse, entropy), and the gradients of their sum weighted by `columns`."""
    h, u = np.asarray(hidden, np.float64), np.asarray(unembed, np.float64)
    scores = h @ u.T
    z, slope = scores, np.ones_like(scores)
    if case.softcap:
        z = case.softcap * np.tanh(scores / case.softcap)
        slope = 1 - np.tanh(scores / case.softcap) ** 2
    z, slope = z / case.temperature, slope / case.temperature
    shift = z.max(1, keepdims=True)
    logsum = np.log(np.exp(z - shift).sum(1, keepdims=True))
    logp = z - shift - logsum
    p = np.exp(logp)
    entropy = -(p * logp).sum(1)
    a, b, c = columns.astype(np.float64)[:, :, None]
    hit = np.eye(case.V)[targets]
    ds = slope * (a * (hit - p) + b * p - c * p * (logp + entropy[:, None]))
    values = logp[np.arange(case.M), targets], (shift + logsum)[:, 0], entropy
    return values, (ds @ u, ds.T @ h)


def outputs(case, implementation, hidden, unembed, targets, columns):
    """((values), (gradients)) of the per-token op, then of the weighted sum."""
    options = dict(
        temperature=case.temperature, softcap=case.softcap, implementation=implementation
    )

    def late(hidden, unembed):
        values = linear_cross_entropy(hidden, unembed, targets, **options)
        return sum((c * v).sum() for c, v in zip(columns, values, strict=True)), values

    def known(hidden, unembed):
        return linear_cross_entropy_sum(hidden, unembed, targets, columns[0], **options)

    gradients, values = jax.grad(late, argnums=(0, 1), has_aux=True)(hidden, unembed)
    total, total_gradients = jax.value_and_grad(known, argnums=(0, 1))(hidden, unembed)
    return (values, gradients), (total, total_gradients)


def assert_close(ours, plain, true, tolerance, noise, rounding=0.0):
    """Within the tolerance, and no more than 1.5 times as far off as the reference.

    Granted on top: `noise`, what rounding the logits to float32 once does; and `rounding`, that
    of the scores' gradients to bfloat16 for their matmuls, which the reference does in float32.
    """
    ours, plain = np.asarray(ours, np.float64), np.asarray(plain, np.float64)
    off, plain_off, size = (np.linalg.norm(x) for x in (ours - true, plain - true, true))
    assert off <= tolerance * size + noise
    assert off <= 1.5 * plain_off + rounding * size + noise


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=3, deadline=None, derandomize=True, database=None, phases=PHASES)
@example(Case(M=13, D=8, V=31, temperature=0.7, softcap=2.0))
@example(Case(M=1, D=8, V=2, scale=300.0))
@example(Case(M=11, D=256, V=37))
@given(case=CASES)
def test_values_and_gradients_equal_float64(implementation, dtype, case):
    """Break it: drop `entropy_M` from the cotangents in api.py, or `- max_M` in `combine`."""
    arrays = operands(case, dtype)
    forward, backward = TOLERANCE[dtype]
    with IMPLEMENTATIONS[implementation]() as name:
        ours = jax.jit(functools.partial(outputs, case, name))(*arrays)
    plain = jax.jit(functools.partial(outputs, case, "reference"))(*arrays)

    hidden, unembed, _, columns = arrays
    late = truth(case, *arrays)
    (nll, lse, _), gradients = truth(case, *arrays[:3], columns * [[-1.0], [0.0], [0.0]])
    known = -(columns[0] * nll).sum(), gradients
    noise = 2.0**-23 * (1 + np.abs(lse).max()) * case.M
    rounding = 2**-8 if dtype == jnp.bfloat16 else 0.0
    slope = noise * np.linalg.norm(columns) / case.temperature
    slopes = tuple(slope * np.linalg.norm(np.float64(x)) for x in (unembed, hidden))
    for mine, reference, true in zip(ours, plain, (late, known), strict=True):
        assert {x.dtype for x in mine[1]} == {jnp.dtype(dtype)}
        jax.tree.map(lambda *x: assert_close(*x, forward, noise), mine[0], reference[0], true[0])
        jax.tree.map(
            lambda *x: assert_close(*x[:3], backward, x[3], rounding),
            *(mine[1], reference[1], true[1], slopes),
        )


def test_the_sum_is_differentiable_in_the_weights_and_zero_weights_give_zero():
    hidden, unembed, targets, columns = operands(Case(5, 8, 7), jnp.float32)
    (nll, _, _), _ = truth(Case(5, 8, 7), hidden, unembed, targets, columns)
    gradient = jax.grad(lambda w: 3 * linear_cross_entropy_sum(hidden, unembed, targets, w))
    np.testing.assert_allclose(gradient(columns[0]), -3 * nll, rtol=1e-5)
    nothing = jax.value_and_grad(linear_cross_entropy_sum, argnums=(0, 1))
    for x in jax.tree.leaves(nothing(hidden, unembed, targets, np.zeros(5, np.float32))):
        np.testing.assert_array_equal(x, 0)


def test_a_sum_in_two_halves_is_the_float32_sum(monkeypatch):
    """Break it: add up the upper halves alone."""
    small_chunks(monkeypatch.setattr)
    hidden, unembed, targets, columns = operands(Case(40, 24, 33), jnp.bfloat16)

    def unembed_gradient(dtype):
        options = dict(temperature=1.0, softcap=None, combine_shards=lambda x: x, dtype=dtype)
        gradients = functools.partial(xla.nll_and_gradients, **options)
        return jax.jit(gradients)(hidden, unembed, targets, columns[0])[2]

    whole = unembed_gradient(jnp.float32)
    assert np.any(whole != whole.astype(jnp.bfloat16))
    np.testing.assert_array_equal(unembed_gradient(jnp.bfloat16), whole.astype(jnp.bfloat16))


@pytest.mark.parametrize("known", [False, True])
def test_memory_does_not_grow_with_the_logits(known, monkeypatch):
    """Break it: FEW_LOGITS or ROWS of 2**30."""
    small_chunks(monkeypatch.setattr)

    def scratch_bytes(tokens, vocabulary=4096, width=4):
        targets, weights = np.zeros(tokens, np.int32), np.ones(tokens, np.float32)

        def loss(hidden, unembed):
            if known:
                return linear_cross_entropy_sum(hidden, unembed, targets, weights)
            return linear_cross_entropy(hidden, unembed, targets)[0].sum()

        shapes = (jax.ShapeDtypeStruct((n, width), np.float32) for n in (tokens, vocabulary))
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert scratch_bytes(1024) < 4 * 1024 * 4096 / 10
