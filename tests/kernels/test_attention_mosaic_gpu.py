"""The Hopper kernels in JAX's interpreter of GPU threads and barriers.

The numbers and limits are those of the parity suite. The interpreter is private to JAX and knows
only a part of Mosaic GPU; what it lacks is replaced here by its meaning: register layouts by
nothing, wgmma by a matmul. The copies, the barriers, the indices and the arithmetic are the
kernels' own, and accesses that race are reported.
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import pytest

from gpt_jax.kernels.attention import mosaic_gpu, warpgroup
from gpt_jax.kernels.attention.scores import Options
from tests.kernels import test_attention_parity as parity

interpret = pytest.importorskip("jax._src.pallas.mosaic_gpu.interpret.interpret_pallas_call")
params = pytest.importorskip("jax._src.pallas.mosaic_gpu.interpret.params")

OPTIONS = Options(causal=True, window=None, softcap=None, scale=0.125)


@pytest.fixture
def on_cpu(monkeypatch):
    def matrix(x):
        return x[0][...].T if isinstance(x, tuple) else x[...]

    def product(a, b, _, meanwhile=lambda: None):
        meanwhile()
        return jnp.dot(matrix(a), matrix(b), preferred_element_type=jnp.float32)

    for name, meaning in {
        "transposed": lambda ref: (ref,),
        "product": product,
        "accumulate": lambda acc, a, b: acc + product(a, b, acc.shape),
        "filled": lambda shape, value: jnp.full(shape, value, jnp.float32),
        "load": lambda ref, missing_axis: ref[...],
        "iota": lambda shape, axis: jax.lax.broadcasted_iota(jnp.int32, shape, axis),
    }.items():
        monkeypatch.setattr(warpgroup, name, meaning)
    with params.force_gpu_interpret_mode(params.InterpretGPUParams(detect_races=True)):
        yield


def test_parity_without_races(on_cpu, monkeypatch):
    """Two heads to a key, four tiles through two slots, several documents, an offset.

    Break it: let the masks not see `q_offset`. (A barrier left out makes the interpreter hang.)
    """
    run = parity.halves(mosaic_gpu, blocks=(64, 2))
    monkeypatch.setitem(
        parity.IMPLEMENTATIONS, "mosaic_gpu", (run, contextlib.nullcontext, ("bfloat16",))
    )
    case = parity.Case(B=1, T=128, S=256, N=2, K=1, H=64, q_offset=128)
    parity.check("mosaic_gpu", case, "bfloat16")
    assert not interpret.get_races().races_found


def test_other_shapes_are_left_to_triton():
    def takes(T=256, H=64, dtype=jnp.bfloat16, options=OPTIONS):
        q = jax.ShapeDtypeStruct((1, T, 2, H), dtype)
        return mosaic_gpu.takes(q, q, options)

    assert takes() and takes(H=128)
    assert not takes(T=200) and not takes(H=80) and not takes(dtype=jnp.float32)
    assert not takes(options=dataclasses.replace(OPTIONS, softcap=30.0))
