"""Many seeds at once compile for accelerators: kernels and collectives under `vmap`."""

import functools

import jax
import pytest

from gpt_jax.data.batches import Batch, Prompts
from gpt_jax.generate.sampler import generate
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.models.heads import axes_of
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.plan import targets
from gpt_jax.train import state as states
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import make_train_step
from gpt_jax.train.vectorized import Frozen, step_of_all
from tests.compile.test_sharded_step import shaped, token_shapes

SEEDS, B, T = 3, 8, 1024
MODEL = ModelConfig(256, T, width=128, layers=1, heads=2, dtype="bfloat16")
MACHINES = [
    ("v5e:2x2", MeshConfig(data=1)),
    ("h100:8", MeshConfig(data=1)),
    ("v5e:2x2", MeshConfig(data=2, fsdp=2)),
]


@pytest.mark.parametrize(("machine", "mesh"), MACHINES)
def test_many_seeds_lower_for_a_machine(machine, mesh):
    """A rollout and a step, with tokens enough for the kernels: lowering finds what has no rule."""
    mesh = make_mesh(mesh, targets.devices(machine))
    key = jax.eval_shape(lambda: jax.random.key(0))
    prompts = shaped(Prompts(token_shapes(B, 64), jax.ShapeDtypeStruct((B,), "int32")), mesh)
    sample = functools.partial(generate, MODEL, max_new_tokens=32, stop_ids=(1,), pad_id=0)
    with jax.set_mesh(mesh):
        params = states.abstract(lambda key: init(MODEL, key), key, mesh=mesh, axes=axes_of(MODEL))
        many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((SEEDS, *x.shape), x.dtype), params)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), SEEDS))
        jax.jit(jax.vmap(sample, in_axes=(0, None, 0))).lower(many, prompts, keys)

        optimizer = make_optimizer(OptimizerConfig(), 10, axes_of(MODEL))
        step = step_of_all(make_train_step(MODEL, lm_loss, optimizer), "vmap")
        state = jax.eval_shape(jax.vmap(lambda p: TrainState.create(p, optimizer)), many)
        weights_BT = jax.ShapeDtypeStruct((B, T), "float32")
        batch = shaped(Batch(token_shapes(B, T), weights_BT), mesh)
        step.lower(state, (batch,) * SEEDS, Frozen({}, {}))
