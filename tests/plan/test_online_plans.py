"""The planner's programs of the online methods, traced on shapes without a compiler."""

import jax
import pytest

from experiments import grpo, online_dpo, ppo, reinforce, rejection, rloo
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.plan.workload import Workload
from gpt_jax.train.optim import OptimizerConfig
from tests import tiny

WORK = Workload(
    stage="ppo",
    model=tiny.MODEL,
    optimizer=OptimizerConfig(),
    rows=8,
    length=24,
    accumulate=2,
    completions=4,
    new_tokens=8,
    epochs=1,
)


@pytest.mark.parametrize("method", [ppo, grpo, rloo, reinforce, rejection, online_dpo])
def test_every_program_of_a_plan_traces(method):
    """Break it: give `collect` no ends. Only PPO's state has a value model."""
    mesh = make_mesh(MeshConfig(data=2))
    with jax.set_mesh(mesh):
        plan = method.plan(WORK, mesh)
        for planned in plan.programs:
            jax.eval_shape(planned.function, *planned.args)
    assert [p.name for p in plan.programs] == ["iteration", "rollout", "scoring", "update"]
    state, *_ = plan.programs[0].args
    assert state.params.keys() == ({"policy", "value"} if method is ppo else {"policy"})
    learned, frozen = method.COST.learned, method.COST.frozen
    assert (learned, frozen) == (len(state.params), 2)
    assert plan.tokens == 64 and plan.flops > 0
