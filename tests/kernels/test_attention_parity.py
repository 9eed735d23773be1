"""Every implementation of attention against one float64 oracle: the output and all gradients.

An implementation joins by a row in IMPLEMENTATIONS. Where there is no such chip, the row names
the context that interprets its kernels. Blocks are small, so that small inputs have many.
"""

import contextlib
import functools
from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu

from gpt_jax.kernels.attention import mosaic_gpu, pallas_tpu, reference, triton, warpgroup, xla
from gpt_jax.kernels.attention.scores import Options


def differentiated(function):
    """run(*inputs, dout) -> (out, dq, dk, dv) of an implementation that JAX differentiates."""

    def run(q, k, v, *rest, options, dout):
        out, vjp = jax.vjp(lambda q, k, v: function(q, k, v, *rest, options), q, k, v)
        return out, *vjp(dout)

    return run


def halves(module, **blocks):
    """The same of a module with a forward and a backward."""

    def run(*inputs, options, dout):
        out, lse = module.forward(*inputs, options, **blocks)
        return out, *module.backward(*inputs, options, out, lse, dout, **blocks)

    return run


@contextlib.contextmanager
def interpreted_hopper():
    """Threads, barriers and copies as the interpreter has them; wgmma is a plain product, because
    it takes neither a transposed operand nor an accumulator that has a value already."""

    def product(a, b, shape, meanwhile=lambda: None):
        del shape
        meanwhile()
        return jnp.dot(a[...], b[...], preferred_element_type=jnp.float32)

    class Transposed:
        def __init__(self, ref):
            self.ref = ref

        def __getitem__(self, _):
            return self.ref[...].T

    with pytest.MonkeyPatch.context() as patch, plgpu.force_gpu_interpret_mode():
        patch.setattr(warpgroup, "product", product)
        patch.setattr(warpgroup, "accumulate", lambda acc, a, b: acc + product(a, b, acc.shape))
        patch.setattr(warpgroup, "transposed", Transposed)
        yield


REFERENCE = differentiated(reference.attention)
BOTH = ("float32", "bfloat16")
IMPLEMENTATIONS = {  # name: (run, context, dtypes)
    "xla, short": (differentiated(xla.short), contextlib.nullcontext, ("float32",)),
    "xla": (halves(xla, q_block=16, kv_block=32), contextlib.nullcontext, BOTH),
    "pallas_tpu": (
        halves(pallas_tpu, q_block=128, kv_block=128),
        pltpu.force_tpu_interpret_mode,
        BOTH,
    ),
    "triton": (halves(triton, blocks=(16, 16, 4, 2)), contextlib.nullcontext, BOTH),
}
HOPPER = {"mosaic_gpu": (halves(mosaic_gpu), interpreted_hopper, ("bfloat16",))}
ROWS = [(name, dtype) for name, (*_, dtypes) in IMPLEMENTATIONS.items() for dtype in dtypes]
settings = functools.partial(
    hypothesis.settings,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.generate],  # Shrinking would take minutes.
)

# ||error|| / ||truth|| allowed: of the output, of the gradients.
LIMITS = {"float32": (1e-5, 1e-4), "bfloat16": (5e-3, 1e-2)}
# And never more than FACTOR times the error of the plain reference, plus about one rounding for
# where that has none (the weight of a single visible key is 1 exactly).
FACTOR = 1.5
FLOOR = {"float32": 2e-6, "bfloat16": 1e-3}

# Sizes and options: each is compiled once for all the data that is drawn.
CONFIGS = {
    "causal, 2 heads to a key": dict(B=2, T=130, S=130, N=2, K=1),
    "everything, 3 heads to a key": dict(
        B=1, T=20, S=300, N=3, K=1, window=150, softcap=20.0, alibi=True
    ),
    "full, equal heads": dict(B=1, T=140, S=24, N=2, K=2, causal=False),
}
# The Hopper kernels take whole blocks of 128 rows, and heads of 64 and 128.
HOPPER_CONFIGS = {
    "causal, 2 heads to a key": dict(B=2, T=256, S=256, N=2, K=1, H=64),
    "window, heads of 128": dict(B=1, T=128, S=384, N=1, K=1, H=128, window=150),
    "full, equal heads": dict(B=1, T=256, S=128, N=2, K=2, H=64, causal=False),
}


class Case(NamedTuple):
    B: int
    T: int
    S: int
    N: int
    K: int
    H: int = 16
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    alibi: bool = False
    segments: str = "packed"
    magnitude: float = 1.0  # of the scores
    q_offset: int = 0
    seed: int = 0

    @property
    def options(self):
        return Options(self.causal, self.window, self.softcap, self.H**-0.5)


def oracle(q, k, v, q_segments, kv_segments, q_offset, slopes, options, dout):
    """(out, dq, dk, dv) in float64 NumPy, from the formulas, and what their errors depend on.

    Returns:
      truth: the four.
      terms: the sizes of what they are sums of. The gradient of a saturated softmax is the small
        difference p (dp - delta) of large terms, to which rounding errors are relative.
      rounded: ||change|| of the four when delta = sum(out * dout) takes the out that was saved,
        rounded to its dtype. This error every FlashAttention has and the plain reference has not.
      largest: the largest score.
    """
    dtype = v.dtype
    q, k, v, dout = (np.asarray(x, np.float64) for x in (q, k, v, dout))
    B, T, N, H = q.shape
    S, K = k.shape[1:3]
    k, v = (np.repeat(x, N // K, axis=2) for x in (k, v))
    raw = options.scale * np.einsum("btnh,bsnh->bnts", q, k)
    cap = np.inf if options.softcap is None else options.softcap
    s = raw if options.softcap is None else cap * np.tanh(raw / cap)
    index_T, index_S = q_offset + np.arange(T)[:, None], np.arange(S)[None]
    if slopes is not None:
        s = s - np.asarray(slopes, np.float64)[:, None, None] * (index_T - index_S)
    seen = (q_segments[:, :, None] == kv_segments[:, None]) & (q_segments[:, :, None] > 0)
    if options.causal:
        seen &= index_S <= index_T
    if options.window is not None:
        seen &= index_S > index_T - options.window
    s = np.where(seen[:, None], s, -np.inf)
    top = s.max(axis=-1, keepdims=True)
    e = np.exp(s - np.where(np.isfinite(top), top, 0))
    p = e / np.maximum(e.sum(axis=-1, keepdims=True), 1e-300)
    dp = np.einsum("btnh,bsnh->bnts", dout, v)

    def through_scores(ds, q, k):
        dk = options.scale * np.einsum("bnts,btnh->bsnh", ds, q)
        dq = options.scale * np.einsum("bnts,bsnh->btnh", ds, k)
        return dq, dk.reshape(B, S, K, N // K, H).sum(axis=3)

    out = np.einsum("bnts,bsnh->btnh", p, v)
    dv = np.einsum("bnts,btnh->bsnh", p, dout).reshape(B, S, K, N // K, H).sum(axis=3)
    slope_of_cap = 1 - np.tanh(raw / cap) ** 2
    delta = (p * dp).sum(axis=-1, keepdims=True)
    saved_out = np.asarray(jnp.asarray(out, dtype), np.float64)
    error = np.einsum("btnh,btnh->bnt", saved_out - out, dout)[..., None]
    dq, dk = through_scores(p * (dp - delta) * slope_of_cap, q, k)
    dq_terms, dk_terms = through_scores(p * (np.abs(dp) + np.abs(delta)), np.abs(q), np.abs(k))
    dq_rounded, dk_rounded = through_scores(p * error * slope_of_cap, q, k)
    return (
        (out, dq, dk, dv),
        (out, dq_terms, dk_terms, dv),
        [0.0, np.linalg.norm(dq_rounded), np.linalg.norm(dk_rounded), 0.0],
        np.abs(s, where=seen[:, None], out=np.zeros_like(s)).max(),
    )


def make(case: Case, dtype: str):
    rng = np.random.default_rng(case.seed)
    B = case.B
    shapes = ((B, case.T, case.N, case.H), *[(B, case.S, case.K, case.H)] * 2)
    q, k, v, dout = (rng.normal(size=shape) for shape in (*shapes, shapes[0]))
    # Scores are about N(0, magnitude^2) before a soft cap.
    q *= case.magnitude / (case.options.scale * case.H**0.5)
    if case.segments == "one":
        segments = np.ones((B, case.S), np.int32)
    elif case.segments == "single tokens":
        segments = np.tile(np.arange(1, case.S + 1, dtype=np.int32), (B, 1))
    elif case.segments == "nothing":
        segments = np.zeros((B, case.S), np.int32)
    else:  # Packed examples of random lengths, and a hole; of two rows the first is padded.
        segments = np.sort(rng.integers(1, 4, (B, case.S)), axis=1).astype(np.int32)
        segments[-1, rng.integers(case.S)] = 0
        segments[: B - 1, 2 * case.S // 3 :] = 0
    index = np.clip(case.q_offset + np.arange(case.T), 0, case.S - 1)
    slopes = 2.0 ** -np.arange(1, case.N + 1) if case.alibi else None
    arrays = [jnp.asarray(x, dtype) for x in (q, k, v)]
    slopes = None if slopes is None else jnp.asarray(slopes, jnp.float32)
    inputs = (*arrays, segments[:, index], segments, np.int32(case.q_offset), slopes)
    return inputs, jnp.asarray(dout, dtype)


@functools.cache
def compiled(run, options: Options):
    return jax.jit(functools.partial(run, options=options))


def errors(results, truths, scales):
    return [
        np.linalg.norm(np.asarray(result, np.float64) - truth) / scale
        for result, truth, scale in zip(results, truths, scales)
    ]


def check(name: str, case: Case, dtype: str):
    run, context, _ = (IMPLEMENTATIONS | HOPPER)[name]
    inputs, dout = make(case, dtype)
    truths, terms, rounded, largest = oracle(*inputs, case.options, dout)
    # Where nothing is seen all is 0, and the results must be.
    scales = [
        max(np.linalg.norm(truth), 0.1 * np.linalg.norm(term), 1e-30)
        for truth, term in zip(truths, terms)
    ]
    with context():
        results = compiled(run, case.options)(*inputs, dout=dout)
    for result, like in zip(results, (inputs[0], *inputs[:3])):
        assert (result.shape, result.dtype) == (like.shape, like.dtype)
    plain = compiled(REFERENCE, case.options)(*inputs, dout=dout)
    # Half a unit in the last place of the scores, which no float32 computation can know better.
    unknown = 2.0**-24 * largest
    output_limit, gradient_limit = LIMITS[dtype]
    for which, limit, error, reference_error, rounding in zip(
        ("out", "dq", "dk", "dv"),
        (output_limit, *[gradient_limit] * 3),
        errors(results, truths, scales),
        errors(plain, truths, scales),
        np.divide(rounded, scales),
    ):
        assert error <= limit + unknown, which
        own_error = np.hypot(reference_error, rounding)
        assert error <= FACTOR * own_error + FLOOR[dtype] + unknown, which


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("name", "dtype"), ROWS)
@settings(max_examples=4)
@hypothesis.given(data=st.data())
def test_parity(name, dtype, config, data):
    case = Case(**CONFIGS[config])
    check(name, draw_data(data.draw, case), dtype)


@pytest.mark.skipif(
    jax.__version_info__ < (0, 11, 2), reason="only JAX 0.11.2 and later interpret such kernels"
)
@pytest.mark.parametrize("config", HOPPER_CONFIGS)
@settings(max_examples=4)
@hypothesis.given(data=st.data())
def test_parity_of_the_hopper_kernels(config, data):
    check("mosaic_gpu", draw_data(data.draw, Case(**HOPPER_CONFIGS[config])), "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), ROWS)
@settings(max_examples=20)
@hypothesis.given(data=st.data())
def test_parity_of_any_shape(name, dtype, data):
    K = data.draw(st.integers(1, 3))
    causal = data.draw(st.booleans())
    case = Case(
        B=data.draw(st.integers(1, 2)),
        T=data.draw(st.integers(1, 300)),
        S=data.draw(st.integers(1, 300)),
        N=K * data.draw(st.integers(1, 3)),
        K=K,
        H=data.draw(st.sampled_from([16, 64, 80, 96])),
        causal=causal,
        window=data.draw(st.none() | st.integers(1, 300)) if causal else None,
        softcap=data.draw(st.none() | st.floats(1.0, 50.0)),
        alibi=data.draw(st.booleans()),
    )
    check(name, draw_data(data.draw, case), dtype)


def draw_data(draw, case: Case) -> Case:
    """Everything about a case that changes no shape."""
    return case._replace(
        segments=draw(st.sampled_from(["packed", "one", "single tokens", "nothing"])),
        magnitude=draw(st.sampled_from([3.0, 30.0, 1.0, 1e4])),
        q_offset=draw(st.sampled_from([case.S - case.T, 0]) | st.integers(-case.T, case.S)),
        seed=draw(st.integers(0, 1000)),
    )
