"""Every implementation of decode attention against a float64 loop over tokens and heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from gpt_jax.errors import UserError
from gpt_jax.kernels.decode_attention import decode_attention, quantize

# On a CPU the kernels run in Pallas's interpreter.
IMPLEMENTATIONS = ("reference", "xla", "pallas_tpu", "pallas_gpu")


def naive(q, k, v, lengths, q_segments, kv_segments, window=None, softcap=None):
    """One token and head at a time, float64."""
    q, k, v = (np.float64(x) for x in (q, k, v))
    out = np.zeros_like(q)
    B, T, N, H = q.shape
    for b, t, n in np.ndindex(B, T, N):
        own, kv = lengths[b] - T + t, n // (N // k.shape[2])
        seen = [
            s
            for s in range(max(0, own + 1 - (window or own + 1)), own + 1)
            if kv_segments[b, s] == q_segments[b, t] != 0
        ]
        if seen:
            scores = k[b, seen, kv] @ q[b, t, n] / np.sqrt(H)
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            weights = np.exp(scores - scores.max())
            out[b, t, n] = weights / weights.sum() @ v[b, seen, kv]
    return out


# Shapes are few, so that each is compiled once; their contents are drawn.
SHAPES = {
    "one token": dict(T=1, N=4, K=4, H=8, S=24),
    "grouped heads": dict(T=2, N=8, K=2, H=16, S=16),
    "one key head": dict(T=4, N=3, K=1, H=8, S=9),
    "a window": dict(T=3, N=2, K=2, H=8, S=20, window=5),
    "a soft cap": dict(T=1, N=2, K=1, H=8, S=12, softcap=3.0),
    "pages": dict(T=2, N=4, K=2, H=8, S=24, page=8),
    "many pages": dict(T=1, N=2, K=1, H=8, S=160, page=8),
    "int8": dict(T=1, N=8, K=8, H=8, S=16, int8=True),
    "int8 pages": dict(T=1, N=4, K=2, H=8, S=64, page=32, int8=True),
    "long": dict(T=1, N=2, K=2, H=4, S=4500),
    "long, a window": dict(T=2, N=2, K=1, H=4, S=4500, window=1500),
}
B, LAYERS, LAYER = 3, 2, 1


def draw(rng, dtype, T, N, K, H, S, size=1.0, page=None, int8=False, **options):
    """(arguments of `decode_attention`, its result in float64): random rows, segments, lengths.

    With `page`, the rows are scattered over pages, and unused places of the table are junk.
    """
    q, k, v = (
        np.asarray(size * rng.normal(size=shape), dtype)
        for shape in [(B, T, N, H), (B, S, K, H), (B, S, K, H)]
    )
    lengths = rng.integers(T, S + 1, B, dtype=np.int32)
    lengths[rng.integers(B)] = rng.choice([0, T, S])
    kv_segments = np.sort(rng.integers(0, 3, (B, S), dtype=np.int32), axis=1)
    kv_segments[rng.random((B, S)) < 0.1] = 0
    newest = np.maximum(lengths[:, None] - T + np.arange(T), 0)
    q_segments = np.take_along_axis(kv_segments, newest, axis=1)

    cache, exact = dict(k_RSKH=k, v_RSKH=v), (k, v)
    if int8:
        (k, k_scale), (v, v_scale) = (jax.device_get(quantize(x)) for x in (k, v))
        cache = dict(k_RSKH=k, v_RSKH=v, k_scale_RKS=k_scale, v_scale_RKS=v_scale)
        exact = [
            x * np.float64(s).swapaxes(1, 2)[..., None] for x, s in ((k, k_scale), (v, v_scale))
        ]
    expected = naive(q, *exact, lengths, q_segments, kv_segments, **options)
    if page:
        table = rng.permutation(B * S // page + 2)[: B * S // page].reshape(B, -1)
        for name, x in cache.items():
            pages = np.split(x, S // page, axis=x.shape.index(S))
            pool = np.ones((table.size + 2, *pages[0].shape[1:]), x.dtype)
            pool[table] = np.stack(pages, axis=1)
            cache[name] = pool
        used = np.arange(S // page) * page < lengths[:, None]
        junk = rng.choice([-1, 10**6], table.shape)
        cache["page_table_BP"] = np.where(used, table, junk).astype(np.int32)
    segments = dict(q_segment_ids_BT=q_segments, kv_segment_ids_BS=kv_segments)
    return dict(q_BTNH=q, **cache, lengths_B=lengths, **segments), expected


@functools.partial(jax.jit, static_argnames=("window", "softcap", "scale", "implementation"))
def run(arguments, **static):
    return decode_attention(**arguments, **static)


def error(out, expected):
    """Norm of the difference over the norm."""
    return np.linalg.norm(np.float64(out) - expected) / max(np.linalg.norm(expected), 1e-30)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1.0, 100.0]))
def test_float32_equals_a_float64_loop(implementation, shape, seed, size):
    """Break it: `<= own_index` -> `<` in a kernel; merge the splits over another axis."""
    arguments, expected = draw(np.random.default_rng(seed), np.float32, size=size, **SHAPES[shape])
    options = {name: SHAPES[shape].get(name) for name in ("window", "softcap")}
    out = run(arguments, **options, implementation=implementation)
    assert error(out, expected) <= 1e-5
    np.testing.assert_array_equal(out[expected == 0.0], 0.0)


@pytest.mark.parametrize("shape", ["many pages", "int8 pages", "long, a window"])
def test_a_simulated_tpu_reads_nothing_out_of_bounds(shape):
    """Break it: leave `last` out of the page's number in pallas_tpu.py."""
    arguments, expected = draw(np.random.default_rng(2), np.float32, **SHAPES[shape])
    call = functools.partial(
        decode_attention, window=SHAPES[shape].get("window"), implementation="pallas_tpu"
    )
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(out_of_bounds_reads="raise")):
        out = jax.jit(lambda x: call(**x))(arguments)
        assert error(out, expected) <= 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[2:])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_takes_these_shapes(implementation, shape):
    """Else the other tests would be of the path that it falls back to."""
    arguments, _ = draw(np.random.default_rng(0), np.float32, **SHAPES[shape])
    call = functools.partial(decode_attention, implementation=implementation)
    assert "pallas_call" in str(jax.make_jaxpr(lambda x: call(**x))(arguments))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[2:])
def test_what_the_kernel_cannot_take_falls_back(implementation):
    arguments, expected = draw(np.random.default_rng(0), np.float16, **SHAPES["one token"])
    assert error(run(arguments, implementation=implementation), expected) <= 5e-3


def test_under_a_mesh_xla_splits_the_computation_and_shard_map_the_kernel():
    arguments, expected = draw(np.random.default_rng(0), np.float32, **SHAPES["grouped heads"])
    arguments = {k: jnp.concatenate([x, x[:1]]) for k, x in arguments.items()}  # 4 rows
    call = functools.partial(decode_attention, implementation="pallas_tpu")
    mesh = jax.make_mesh((2, 2), ("rows", "heads"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    heads = PartitionSpec("rows", None, "heads")
    specs = {k: heads if x.ndim == 4 else PartitionSpec("rows") for k, x in arguments.items()}
    with jax.set_mesh(mesh):
        split = jax.jit(lambda x: call(**x))
        mapped = jax.jit(jax.shard_map(split, in_specs=(specs,), out_specs=heads, check_vma=False))
        for function, kernel in [(split, False), (mapped, True)]:
            assert ("pallas_call" in str(jax.make_jaxpr(function)(arguments))) == kernel
            assert error(function(arguments)[:B], expected) <= 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", ["grouped heads", "int8", "long"])
def test_bfloat16_is_as_exact_as_its_rounding(implementation, shape):
    arguments, expected = draw(np.random.default_rng(0), jnp.bfloat16, **SHAPES[shape])
    out = run(arguments, implementation=implementation)
    assert out.dtype == jnp.bfloat16
    assert error(out, expected) <= 5e-3
    plain = run(arguments, implementation="reference")
    assert error(out, expected) <= 1.5 * error(plain, expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_one_layer_of_a_stack_is_read_where_it_lies(implementation):
    """Break it: leave the layer out of `pages_of_all_layers`."""
    rng = np.random.default_rng(0)
    for shape in ("one token", "int8 pages"):
        (other, _), (arguments, expected) = (draw(rng, np.float32, **SHAPES[shape]) for _ in "ab")
        stacks = {
            name: np.stack([other[name], arguments[name]])
            for name in arguments
            if "_RSKH" in name or "_RKS" in name
        }
        out = run(arguments | stacks | dict(layer=1), implementation=implementation)
        assert error(out, expected) <= 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_without_segment_ids_all_entries_in_use_are_read(implementation):
    arguments, _ = draw(np.random.default_rng(0), np.float32, **SHAPES["grouped heads"])
    del arguments["q_segment_ids_BT"], arguments["kv_segment_ids_BS"]
    arguments["lengths_B"] = lengths = np.array([16, 9, 2], np.int32)
    q, k, v = (arguments[name] for name in ("q_BTNH", "k_RSKH", "v_RSKH"))
    ones = np.ones((B, 16), np.int32)
    out = run(arguments, implementation=implementation)
    assert error(out, naive(q, k, v, lengths, ones[:, :2], ones)) <= 1e-5


def test_quantized_entries_are_off_by_half_a_step_at_most():
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 8)).astype(np.float32)
    x[0, 0, 0] = 0.0
    entries, scale_BKS = jax.device_get(quantize(x))
    assert entries.dtype == np.int8 and scale_BKS.shape == (2, 3, 5)
    step = scale_BKS.swapaxes(1, 2)[..., None]
    assert (np.abs(entries * step - x) <= 0.5001 * step).all()


def test_arguments_that_belong_together_are_given_together():
    arguments, _ = draw(np.random.default_rng(0), np.float32, **SHAPES["int8"])
    for missing, sentence in [("v_scale_RKS", "int8 cache"), ("q_segment_ids_BT", "segment ids")]:
        with pytest.raises(UserError, match=sentence):
            decode_attention(**arguments | {missing: None})
