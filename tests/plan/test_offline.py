"""The offline stages' plans are their own steps, reference or teacher included.

Break it: leave `frozen` out of `gradient_step`.
"""

import dataclasses

import jax
import pytest

from experiments import distill, dpo, kto
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.plan.workload import Workload
from gpt_jax.train.optim import OptimizerConfig
from tests import tiny

MODEL = dataclasses.replace(tiny.MODEL, layers=1)


@pytest.mark.parametrize(("stage", "tokens"), [(dpo, 8 * 64 * 4), (kto, 8 * 64), (distill, 8 * 64)])
def test_a_plan_traces(stage, tokens):
    work = Workload("", MODEL, OptimizerConfig(), 8, 64, 2, 4, 16, 1)
    mesh = make_mesh(MeshConfig(fsdp=2))
    with jax.set_mesh(mesh):
        plan = stage.plan(work, mesh)
        (program,) = plan.programs
        state, metrics = jax.eval_shape(program.function, *program.args)
    held = sum(x.size for x in jax.tree.leaves(program.args[2]))
    assert held == sum(x.size for x in jax.tree.leaves(state.params))
    assert plan.tokens == tokens and plan.flops > 0 and "loss" in metrics
