import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.train.members import average, in_turn, with_mean
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import make_train_step

MEMBERS, STEPS = 3, 4
BATCHES = np.random.default_rng(0).normal(size=(MEMBERS * STEPS, 8, 2)).astype(np.float32)


def loss(params, batch, key):
    del key
    errors = jnp.sum((params["w"] - batch) ** 2, axis=1)
    return errors.sum(), jnp.float32(len(batch)), {"loss": (errors.sum(), len(batch))}


def start():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1), STEPS)
    state = TrainState.create({"w": jnp.array([3.0, -1.0])}, optimizer)
    return state, make_train_step(loss, optimizer)


def test_members_equal_separate_runs_and_the_model_is_their_mean():
    """Break it: leave the optimizer's state, or the weight of the mean, as it was."""
    ends = []
    for batches in BATCHES.reshape(MEMBERS, STEPS, 8, 2):
        state, step = start()
        for batch in batches:
            state, _ = step(state, batch)
        ends.append(np.asarray(state.params["w"]))
    assert np.ptp(ends, axis=0).min() > 1e-4

    state, step = start()
    step = in_turn(step, with_mean(start()[0]), STEPS)
    state = jax.tree.map(jnp.copy, with_mean(state))
    for number, batch in enumerate(BATCHES, start=1):
        state, _ = step(state, batch)
        if number % STEPS == 0:
            np.testing.assert_allclose(state.params["w"], ends[number // STEPS - 1], rtol=1e-6)
    assert state.step == MEMBERS * STEPS
    mean = average(state, MEMBERS).params["w"]
    np.testing.assert_allclose(mean, np.mean(ends, axis=0), rtol=1e-6)
