"""The sharded train step as the TPU's compiler lays it out."""

import functools
import re

import jax

from gpt_jax.data.batches import Batch
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.transformer import init
from gpt_jax.parallel import rules, targets
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.train import state as states
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import make_train_step

B, T, D, L = 8, 2048, 256, 4


def compiled_step(mesh, machine="v5e:2x4", remat="none", optimizer=OptimizerConfig(), **step):
    """The step of a small bfloat16 model, compiled for a machine."""
    model = ModelConfig(512, T, width=D, layers=L, heads=4, dtype="bfloat16", remat=remat)
    optimizer = make_optimizer(optimizer, 10)
    key = jax.eval_shape(lambda: jax.random.key(0))
    mesh = make_mesh(mesh, targets.devices(machine))
    shapes = Batch(*[jax.ShapeDtypeStruct((B, T), x) for x in ("int32",) * 3 + ("float32",)])
    batch = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        rules.batch_shardings(shapes, mesh),
    )
    train_step = make_train_step(functools.partial(lm_loss, model), optimizer, **step)
    with jax.set_mesh(mesh):
        state = states.abstract(
            lambda key: TrainState.create(init(model, key), optimizer), key, mesh=mesh
        )
        return train_step.lower(state, batch).compile()


def moved(compiled, kind):
    """Elements of the results of one kind of collective, once per occurrence in the program."""
    sizes = []
    for line in compiled.as_text().splitlines():
        match = re.search(rf"= (.*?) {kind}(-start)?\(", re.sub(r"\{[^{}]*\}", "", line))
        for shape in re.findall(r"\w+\[([\d,]+)\]", match[1]) if match else ():
            sizes.append(functools.reduce(int.__mul__, map(int, shape.split(","))))
    return sizes


def test_tokens_stay_where_they_are():
    """Over `context` only keys and values travel, and only to the neighbour."""
    compiled = compiled_step(MeshConfig(data=1, fsdp=2, context=4))
    activations = B * T * D // 8
    gathered = moved(compiled, "all-gather")
    assert gathered and max(gathered) <= 4 * D * D  # weights: a whole MLP matrix at the most
    assert activations > 4 * D * D
    assert max(moved(compiled, "collective-permute")) <= activations
