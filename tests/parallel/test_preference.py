"""Invariant 5 of every offline method: devices and micro-batches change no curve of the loss.

Break it: estimate KTO's KL in each micro-batch, or divide a prompt's pairs by those of a device.
"""

import functools

import chex
import jax
import numpy as np
import pytest

from experiments import distill, kto, sft
from gpt_jax.data import pipeline
from gpt_jax.data.feedback import Feedback
from gpt_jax.losses.preference import dpo_loss, ipo_loss, orpo_loss, simpo_loss
from gpt_jax.metrics import mean
from gpt_jax.models.contract import init
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.train import state as states
from gpt_jax.train.gradient import gradient_functions
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.stage import TrainConfig
from tests import tiny
from tests.losses.bag import Bag

ONE, EIGHT = MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)
SGD = OptimizerConfig(learning_rate=1e-2)
PAIRS = tiny.comparisons(np.random.default_rng(0), n=8, k=3, length=24)
MARKED = Feedback(
    jax.tree.map(lambda x: x[:, :2], PAIRS.tokens_BKT),
    PAIRS.weights_BKT[:, :2],
    np.array([1, -1, 1, 1, -1, -1, 1, -1], np.int32),
)
PACKED = tiny.padded(tiny.random_rows(np.random.default_rng(1), 8), 24)
LOSSES = {
    "dpo": functools.partial(dpo_loss, beta=0.3, label_smoothing=0.1),
    "ipo": functools.partial(ipo_loss, beta=0.4),
    "orpo": functools.partial(orpo_loss, odds_weight=0.7),
    "simpo": functools.partial(simpo_loss, beta=2.0, gamma=0.8),
}


def functions_of(name, model, train):
    """(functions of the stage, its batch)."""
    if name == "kto":
        recipe = kto.KTO(optimizer=SGD, train=train, beta=0.5)
        return kto.functions_of(model, recipe, train), MARKED
    if name == "distill":
        recipe = distill.Distill(optimizer=SGD, train=train, divergence="jsd")
        return distill.functions_of(model, model, recipe, train, tiny.ENDS), PACKED
    return gradient_functions(model, LOSSES[name], SGD, train, sft.first), PAIRS


def run(name, config, accumulate=1, model=Bag(), steps=4):  # noqa: B008 (it is frozen)
    """The metrics of every step, and the final parameters."""
    mesh = make_mesh(config)
    train = TrainConfig(steps=steps, batch_size=8, accumulate=accumulate)
    made, rows = functions_of(name, model, train)
    with jax.set_mesh(mesh):
        create = functools.partial(states.create, mesh=mesh, axes=made.axes)
        # Apart, since a step gives its old state away.
        policy, other = (
            create(lambda seed=seed: init(model, jax.random.key(seed))) for seed in (0, 1)
        )
        state = create(made.init, np.uint32(0), policy)
        frozen = {"reference": other, "teacher": other}
        curve = []
        for _ in range(steps):
            state, metrics = made.step(state, pipeline.place(rows, mesh), frozen)
            curve.append(mean(jax.device_get(metrics)))
        return curve, jax.device_get(state.params)


@pytest.mark.parametrize("name", [*LOSSES, "kto", "distill"])
def test_eight_devices_and_micro_batches_give_the_curve_of_one(name):
    one, params = run(name, ONE)
    for config, accumulate in ((ONE, 4), (EIGHT, 2)):
        other, theirs = run(name, config, accumulate)
        for mine, there in zip(one, other, strict=True):
            assert mine == pytest.approx(there, rel=2e-4, abs=2e-4)
        chex.assert_trees_all_close(params, theirs, atol=5e-4)
    assert one[-1]["loss"] < one[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "kto", "distill"])
@pytest.mark.parametrize("config", [EIGHT, MeshConfig(data=2, tensor=2, context=2)])
def test_a_transformer_over_a_mesh(name, config):
    """With heads, layers and sequences split, too."""
    one, _ = run(name, ONE, model=tiny.MODEL, steps=2)
    eight, _ = run(name, config, model=tiny.MODEL, steps=2)
    for mine, there in zip(one, eight, strict=True):
        assert mine == pytest.approx(there, rel=2e-4, abs=2e-4)
