"""Meshes, sharding rules, and training on eight devices as on one."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gpt_jax.data import pipeline
from gpt_jax.errors import UserError
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models.transformer import init
from gpt_jax.parallel import rules
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.train import state as states
from gpt_jax.train.metrics import mean
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import make_train_step
from tests import tiny

EIGHT = MeshConfig(data=2, fsdp=2, tensor=2)


def test_mesh_sizes():
    def sizes(config):
        return dict(make_mesh(config).shape)

    assert sizes(EIGHT) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    assert sizes(MeshConfig(tensor=4)) == {"data": 2, "fsdp": 1, "context": 1, "tensor": 4}
    assert sizes(MeshConfig(context=4)) == {"data": 2, "fsdp": 1, "context": 4, "tensor": 1}
    assert make_mesh(MeshConfig(data=1)).size == 1


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (MeshConfig(fsdp=3), "8 devices do not divide by fsdp=3 x context=1 x tensor=1"),
        (MeshConfig(data=4, tensor=4), "data=4 x fsdp=1 x context=1 x tensor=4 needs 16 devices"),
        (MeshConfig(fsdp=0), "mesh axes must be positive"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_sentence(config, sentence):
    """Invariant 12."""
    with pytest.raises(UserError, match=sentence):
        make_mesh(config)


def test_sharding_of_every_parameter():
    """The whole layout of the tiny model, so that a change of a rule is seen."""
    shapes = jax.eval_shape(lambda: init(tiny.MODEL, jax.random.key(0)))
    placed = rules.shardings(shapes, make_mesh(EIGHT))
    specs = {
        rules.path_name(path): tuple(sharding.spec)
        for path, sharding in jax.tree_util.tree_leaves_with_path(placed)
    }
    f, t = "fsdp", "tensor"
    assert specs == {
        "embed/tokens": (t, f),
        "embed/positions": (None, f),
        "blocks/attn/q": (None, f, t),
        "blocks/attn/k": (None, f, t),
        "blocks/attn/v": (None, f, t),
        "blocks/attn/out": (None, t, f),
        "blocks/attn/q_bias": (None, t),
        "blocks/attn/k_bias": (None, t),
        "blocks/attn/v_bias": (None, t),
        "blocks/attn/out_bias": (None, None),
        "blocks/mlp/up": (None, f, t),
        "blocks/mlp/down": (None, t, f),
        "blocks/mlp/up_bias": (None, t),
        "blocks/mlp/down_bias": (None, None),
        "blocks/attn_norm/scale": (),
        "blocks/attn_norm/bias": (),
        "blocks/mlp_norm/scale": (),
        "blocks/mlp_norm/bias": (),
        "final_norm/scale": (),
        "final_norm/bias": (),
    }


def test_an_axis_that_does_not_divide_is_named():
    """Invariant 12."""
    tree = {"embed": {"tokens": jax.ShapeDtypeStruct((33, 16), jnp.float32)}}
    with pytest.raises(UserError, match="embed/tokens: its vocab axis of 33 is not a multiple"):
        rules.shardings(tree, make_mesh(EIGHT))
    with pytest.raises(UserError, match="no sharding rule matches embed/mystery"):
        rules.shardings({"embed": {"mystery": jnp.ones(3)}}, make_mesh(EIGHT))


def train(mesh, steps=20, accumulate=1, batch=8):
    """A loss curve and the final parameters on a mesh."""
    model = tiny.MODEL
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2), steps)
    rows = tiny.padded(tiny.random_rows(np.random.default_rng(0), 32), 20)
    batch_at = pipeline.make_batch_at(rows, batch, seed=0)
    step = make_train_step(
        functools.partial(lm_loss, model), optimizer, seed=0, accumulate=accumulate
    )
    curve = []
    with jax.set_mesh(mesh):
        state = states.create(
            lambda key: TrainState.create(init(model, key), optimizer),
            jax.random.key(0),
            mesh=mesh,
        )
        for i in range(steps):
            state, metrics = step(state, pipeline.place(batch_at(i), mesh))
            curve.append(mean(jax.device_get(metrics))["loss"])
    return np.array(curve), jax.device_get(state.params), state


def test_eight_devices_give_the_loss_curve_of_one():
    """Invariant 5, and the issue's 1e-5. Break the mean: divide per device before summing."""
    one, *_ = train(make_mesh(MeshConfig(data=1)))
    eight, _, state = train(make_mesh(EIGHT))
    np.testing.assert_allclose(one, eight, atol=1e-5)
    assert one[-1] < one[0] - 0.1
    # The state is really split: no device holds a whole matrix, moments included.
    assert state.params["blocks"]["mlp"]["up"].sharding.spec == P(None, ("fsdp",), ("tensor",))
    largest = max(jax.tree.leaves(state.opt_state), key=lambda x: x.size)
    assert largest.addressable_shards[0].data.size == largest.size // 4


def test_accumulation_changes_nothing():
    """Invariant 5. Break it: average the micro-batches' means instead of summing numerators."""
    whole, params_whole, _ = train(make_mesh(MeshConfig(data=1)), steps=5)
    parts, params_parts, _ = train(make_mesh(MeshConfig(data=1)), steps=5, accumulate=4)
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    chex.assert_trees_all_close(params_whole, params_parts, atol=2e-4)


def test_accumulation_on_a_mesh():
    one, *_ = train(make_mesh(MeshConfig(data=1)), steps=5)
    both, *_ = train(make_mesh(EIGHT), steps=5, accumulate=2)
    np.testing.assert_allclose(one, both, atol=1e-5)


def test_row_padding_and_width_change_no_loss():
    """Invariant 1 for the loss. Break `* weights_BT` in `weighted_nll`."""
    rows = tiny.random_rows(np.random.default_rng(3), 5)
    params = tiny.params()
    a = lm_loss(tiny.MODEL, params, tiny.padded(rows, 20))
    b = lm_loss(tiny.MODEL, params, tiny.padded([*rows, [], []], 33))
    chex.assert_trees_all_close(a, b, rtol=1e-5)
