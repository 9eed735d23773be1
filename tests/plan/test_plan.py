"""The planner's counting, against closed formulas; tests/compile has the compilers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from gpt_jax.chips import CHIPS, chip_of
from gpt_jax.data.batches import Batch
from gpt_jax.kernels.attention import attention
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models import blocks, init
from gpt_jax.models.flops import forward_flops, training_flops, visible_pairs
from gpt_jax.models.presets import PRESETS
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.plan import hlo
from gpt_jax.plan.traced import traced_flops
from gpt_jax.plan.workload import floats, tokens

LAYERS, ROWS, WIDTH = 5, 64, 32


def layered(weights_LDD, x_BD):
    """A scan of matrix products, as the transformer's blocks are."""
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x_BD, weights_LDD)[0].sum()


def sharded(mesh, shape, *axes):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*axes)))


def test_loops_count_as_often_as_they_run():
    """Break it: `trips * more[0]` -> `more[0]` in hlo.py."""
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    args = sharded(mesh, (LAYERS, WIDTH, WIDTH)), sharded(mesh, (ROWS, WIDTH))
    cost = hlo.cost(jax.jit(layered).lower(*args).compile().as_text())
    exact = 2 * LAYERS * ROWS * WIDTH * WIDTH
    assert cost.flops == exact
    assert traced_flops(layered, *args) == exact
    assert cost.collective_bytes == {}
    # Every layer's weights are read once, and not the whole stack once per layer.
    stack = 4 * LAYERS * WIDTH * WIDTH
    assert stack <= cost.hbm_bytes < 3 * stack + 30 * LAYERS * 4 * ROWS * WIDTH


def test_collectives_in_loops_are_counted_by_kind():
    """Parameters split over 8 devices are gathered once per layer: 7/8 of each arrives."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    args = sharded(mesh, (LAYERS, WIDTH, WIDTH), None, "fsdp"), sharded(mesh, (ROWS, WIDTH), "fsdp")
    cost = hlo.cost(jax.jit(layered).lower(*args).compile().as_text())
    assert cost.flops == 2 * LAYERS * ROWS * WIDTH * WIDTH / 8
    assert cost.collective_bytes["all-gather"] == LAYERS * 4 * WIDTH * WIDTH * 7 / 8
    assert cost.collective_bytes["all-reduce"] == pytest.approx(2 * 4 * 7 / 8)  # the sum: a float


TPU_HLO = """
%fused (p.0: bf16[8,512,128], p.1: bf16[8,128,64]) -> bf16[8,512,64] {
  %p.0 = bf16[8,512,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = bf16[8,128,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[8,512,64]{2,1,0} convolution(%p.0, %p.1), \
window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf
}

%body (carry: (s32[], bf16[8,512,128], bf16[8,128,64])) -> (s32[], bf16[8,512,128]) {
  %carry = (s32[], bf16[8,512,128]{2,1,0}, bf16[8,128,64]{2,1,0:S(1)}) parameter(0)
  %x = bf16[8,512,128]{2,1,0} get-tuple-element(%carry), index=1
  %w = bf16[8,128,64]{2,1,0:S(1)} get-tuple-element(%carry), index=2
  %product = bf16[8,512,64]{2,1,0} fusion(%x, %w), kind=kOutput, calls=%fused
  %start.1 = bf16[8,512,64]{2,1,0} all-reduce(%product), channel_id=7, replica_groups=[4,2]<=[8]
  %start.2 = bf16[8,512,64]{2,1,0} all-reduce(%product), channel_id=7, replica_groups=[4,2]<=[8]
  %i = s32[] get-tuple-element(%carry), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], bf16[8,512,128]{2,1,0}) tuple(%next, %x)
}

%condition (carry.1: (s32[], bf16[8,512,128])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, bf16[8,512,128]{2,1,0}) parameter(0)
  %bound = s32[]{:T(128)} constant(24)
  %count = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %bound), direction=LT
}

ENTRY %main (a: bf16[8,512,128]) -> bf16[8,512,128] {
  %a = bf16[8,512,128]{2,1,0} parameter(0)
  %loop = (s32[]{:T(128)}, bf16[8,512,128]{2,1,0}) while(%a), condition=%condition, body=%body
  ROOT %result = bf16[8,512,128]{2,1,0} get-tuple-element(%loop), index=1
}
"""


def test_the_tpu_dialect():
    """A batched product as a dilated convolution, weights in VMEM, one channel in two pieces."""
    cost = hlo.cost(TPU_HLO)
    assert cost.flops == 24 * 2 * 8 * 512 * 128 * 64
    product = 2 * 8 * 512 * 64
    assert cost.collective_bytes == {"all-reduce": 24 * 2 * product / 2}
    x = 2 * 8 * 512 * 128
    assert cost.hbm_bytes == pytest.approx(24 * (x + product + 4 * product), rel=1e-3)


def test_a_loop_that_steps_by_two_runs_half_as_often():
    """Break it: return 1 from `_step` in hlo.py."""
    unrolled = TPU_HLO.replace("%next = s32[] add(%i, %one)", "%next.1 = s32[] add(%i, %one)\n"
                               "  %next = s32[] add(%next.1, %one)")  # fmt: skip
    assert hlo.cost(unrolled).flops == hlo.cost(TPU_HLO).flops / 2


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("replica_groups=[4,2]<=[8]", 2),
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=mesh['a'=1,'b'=4,'c'=8], device_ids=([4,8]T(1,0)) {'c'}", 8),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_0','axis_1'}", 16),
    ],
)
def test_group_sizes(attributes, size):
    assert hlo.group_size(f"channel_id=1, {attributes}, use_global_device_ids=true") == size


def one_row(length):
    return Batch(tokens(1, length), floats(1, length))


@pytest.mark.parametrize("name", list(PRESETS))
def test_flops_equal_the_closed_formula(name, monkeypatch):
    """6 N and attention, on every preset; the reference attends to the hidden pairs too."""
    monkeypatch.setattr(
        blocks, "attention", functools.partial(attention, implementation="reference")
    )
    model = PRESETS[name]
    params = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    length = min(model.context_length, 4096)
    pairs = model.layers * length**2
    loss = functools.partial(lm_loss, model)
    forward = traced_flops(lambda p, b: loss(p, b)[0], params, one_row(length))
    assert forward == pytest.approx(forward_flops(model, length, pairs), rel=0.02)


@pytest.mark.parametrize("name", list(PRESETS))
def test_training_costs_three_forward_passes(name):
    """One block of queries and one chunk of the loss: longer rows recompute a part of both."""
    model = dataclasses.replace(PRESETS[name], remat="none")
    params = jax.eval_shape(lambda: init(model, jax.random.key(0)))
    gradient = jax.grad(lambda p, b: lm_loss(model, p, b)[0])
    length = 32  # one block of queries, and logits in one piece
    counted = traced_flops(gradient, params, one_row(length))
    pairs = model.layers * length**2
    assert counted == pytest.approx(training_flops(model, length, pairs), rel=0.02)


def test_visible_pairs_equal_a_mask():
    for length, window in ((7, None), (7, 3), (4, 9)):
        seen = [
            k <= q and (window is None or k > q - window)
            for q in range(length)
            for k in range(length)
        ]
        assert visible_pairs(length, window) == sum(seen)


def test_device_kinds_name_one_chip():
    kinds = [kind for chip in CHIPS.values() for kind in chip.kinds]
    assert len(kinds) == len(set(kinds))
    assert chip_of("TPU v5 lite") is CHIPS["v5e"]
    assert chip_of("cpu") is None
