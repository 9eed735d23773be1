"""Invariant 15: seed s of a vectorised run equals the same seed alone.

All that two seeds differ in is in the state, so `vmap` over states is a sweep over seeds and
learning rates. Break it: let a step take its seed or its learning rate from a Python closure.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import keys
from gpt_jax.generate.sampler import generate
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models.contract import init
from gpt_jax.models.heads import init_scorer
from gpt_jax.rl.actor_critic import ActorCritic, PPOConfig, init_state, ppo
from gpt_jax.rl.iteration import Inputs, make_iteration
from gpt_jax.rl.rewards import model_reward
from gpt_jax.train.gradient import gradient_functions
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.stage import TrainConfig
from gpt_jax.train.vectorized import Frozen, one, stack, step_of_all
from tests import tiny

SEEDS = np.arange(3, dtype=np.uint32)
RATES = jnp.array([1e-3, 3e-3, 5e-4])
OPTIMIZER = OptimizerConfig(eps=1e-5)
MODEL = dataclasses.replace(tiny.MODEL, layers=1)


def at_rate(state, rate):
    """The state with another peak of its learning rate."""
    *others, last = state.opt_state
    last = last._replace(learning_rate=rate)
    return dataclasses.replace(state, opt_state=(*others, last))


def both(init, step, *inputs, steps):
    """States after some steps: of all seeds at once, and of each alone, stacked."""

    def start(seed, rate):
        return at_rate(init(seed), rate)

    together = jax.jit(jax.vmap(start))(SEEDS, RATES)
    step_all = jax.jit(jax.vmap(step, in_axes=(0, *[None] * len(inputs))))
    for _ in range(steps):
        together, _ = step_all(together, *inputs)
    ends = []
    for seed, rate in zip(SEEDS, RATES, strict=True):
        alone = jax.jit(start)(seed, rate)
        for _ in range(steps):
            alone, _ = step(alone, *inputs)
        ends.append(alone)
    return together, jax.tree.map(lambda *xs: jnp.stack(xs), *ends)


def assert_equal_and_apart(together, alone):
    chex.assert_trees_all_close(together.params, alone.params, atol=1e-5)
    chex.assert_trees_all_equal(together.seed, SEEDS)
    for leaf in jax.tree.leaves(together.params):
        if leaf[0].size > 1:
            assert np.any(leaf[0] != leaf[1]) and np.any(leaf[1] != leaf[2])


@pytest.mark.slow
def test_language_models_of_many_seeds_are_those_of_each():
    def first(seed):
        return init(MODEL, keys.derive(seed, 0, "init"))

    train = TrainConfig(steps=4, batch_size=4, accumulate=2)
    functions = gradient_functions(MODEL, lm_loss, OPTIMIZER, train, first)
    batch = tiny.padded(tiny.random_rows(np.random.default_rng(0), 4), 20)
    assert_equal_and_apart(*both(*functions[:2], batch, {}, steps=3))

    still = at_rate(functions.init(np.uint32(0)), jnp.float32(0))
    before = jax.device_get(still.params)
    still, _ = functions.step(still, batch, {})
    chex.assert_trees_all_equal(still.params, before)


@pytest.mark.slow
def test_policies_of_many_seeds_are_those_of_each():
    """One iteration of PPO: other samples, other minibatches, other learning rates."""
    config = PPOConfig(episodes=4, epochs=1, minibatches=2, max_new_tokens=6)
    model = ActorCritic(MODEL, MODEL)
    optimizer = make_optimizer(OPTIMIZER, 10, tiny.AXES)
    policy = tiny.params(MODEL)
    scorer = init_scorer(MODEL, tiny.params(MODEL, seed=1), jax.random.key(2))
    frozen = {"reference": policy, "reward": scorer}
    step = make_iteration(ppo(config, model, tiny.ENDS), optimizer, model_reward(MODEL, scorer))

    def start(seed):
        return init_state(config, model, optimizer, seed, policy, scorer)

    inputs = Inputs(tiny.prompts(np.random.default_rng(0), 4))
    assert_equal_and_apart(*both(start, step, inputs, frozen, steps=1))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["map", "vmap"])
def test_policies_with_prompts_and_references_of_their_own(how):
    """Two iterations of a run of many seeds: other prompts, other references, one reward.

    Sampled tokens are compared through what follows from them. Products with a batch dimension
    round otherwise, so a draw could fall on the other side of a boundary; these do not.
    """
    config = PPOConfig(episodes=4, epochs=1, minibatches=2, max_new_tokens=6)
    model = ActorCritic(MODEL, MODEL)
    optimizer = make_optimizer(OPTIMIZER, 10, tiny.AXES)
    scorer = init_scorer(MODEL, tiny.params(MODEL, seed=1), jax.random.key(2))
    step = make_iteration(ppo(config, model, tiny.ENDS), optimizer, model_reward(MODEL, scorer))
    policies = [tiny.params(MODEL, seed=seed) for seed in SEEDS.tolist()]
    inputs = [Inputs(tiny.prompts(np.random.default_rng(seed), 4)) for seed in SEEDS.tolist()]
    starts = [
        jax.jit(lambda s, p: init_state(config, model, optimizer, s, p, scorer))(seed, policy)
        for seed, policy in zip(SEEDS, policies, strict=True)
    ]
    together = stack(starts)
    frozen = Frozen({"reward": scorer}, {"reference": stack(policies)})
    step_all = step_of_all(step, how)
    for _ in range(2):
        together, metrics = step_all(together, tuple(inputs), frozen)
    for place, (alone, policy) in enumerate(zip(starts, policies, strict=True)):
        for _ in range(2):
            alone, values = step(alone, inputs[place], {"reward": scorer, "reference": policy})
        chex.assert_trees_all_close(one(together, place).params, alone.params, atol=1e-5)
        ours = {name: total[place] for name, (total, _) in metrics.items()}
        theirs = {name: total for name, (total, _) in values.items()}
        assert ours["tokens"] == theirs["tokens"]
        np.testing.assert_array_equal(
            ours["val/num_eos_tokens"], theirs["val/num_eos_tokens"], err_msg=str(place)
        )
        chex.assert_trees_all_close(ours["objective/scores"], theirs["objective/scores"], rtol=1e-4)


def test_under_vmap_sampling_goes_on_until_the_last_seed_has_stopped():
    """With the same tokens as alone. Break it: leave `_any_running` without its rule, and the loop
    of the program chooses between two caches at every token."""
    prompts = tiny.prompts(np.random.default_rng(0), 4)
    params = [tiny.params(MODEL, seed=seed) for seed in SEEDS.tolist()]

    def sample(params, seed):
        key = keys.derive(seed, 0, "test")
        ends = {"stop_ids": tuple(range(1, 7)), "pad_id": 0}
        return generate(MODEL, params, prompts, key, max_new_tokens=20, **ends)

    together = jax.jit(jax.vmap(sample))(stack(params), SEEDS)
    lengths = []
    for place, seed in enumerate(SEEDS):
        alone = jax.jit(sample)(params[place], seed)
        found = one(together, place)
        chex.assert_trees_all_equal(found.completion_BC, alone.completion_BC)
        chex.assert_trees_all_equal(found.stopped_B, alone.stopped_B)
        chex.assert_trees_all_close(found.logprobs_BC, alone.logprobs_BC, atol=1e-5)
        lengths.append(int(alone.mask_BC.sum(1).max()))
    assert len(set(lengths)) > 1, "a case where one seed stops before another"
    jaxpr = jax.make_jaxpr(jax.vmap(sample))(stack(params), SEEDS)
    loops = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "while"]
    assert loops and all(e.params["cond_jaxpr"].out_avals[0].shape == () for e in loops)


def test_a_seed_in_the_state_gives_the_keys_of_the_number():
    """Python's numbers name the keys in messages and in the order of the data."""
    for seed in (0, 7, 2**31 - 1):
        for step in (0, 5):
            expected = jax.random.key_data(keys.derive(seed, step, "loss"))
            traced = jax.jit(lambda s, t: jax.random.key_data(keys.derive(s, t, "loss")))
            np.testing.assert_array_equal(traced(np.uint32(seed), np.int32(step)), expected)
