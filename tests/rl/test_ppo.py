"""The PPO iteration: what must hold before, in and after the first update."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import keys
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import generate
from gpt_jax.metrics import mean
from gpt_jax.models.heads import init_scorer
from gpt_jax.rl import actor_critic
from gpt_jax.rl.actor_critic import ActorCritic, PPOConfig, ppo, ppo_loss
from gpt_jax.rl.iteration import Inputs, collect, final_scores, learn, make_iteration
from gpt_jax.rl.rewards import DeviceReward, HostReward, model_reward
from gpt_jax.rl.rollout import completion_values
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.state import TrainState
from tests import tiny

CONFIG = PPOConfig(episodes=8, epochs=2, minibatches=2, max_new_tokens=10, missing_stop_score=None)
MODEL = ActorCritic(tiny.MODEL, tiny.MODEL)
PLACES = [(0, 0), (0, 0), (0, 1), (1, 0)]  # seed and step
OPTIMIZER = make_optimizer(
    OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, eps=1e-5), 100, tiny.AXES
)


@pytest.fixture(scope="module")
def policy():
    return tiny.params()


@pytest.fixture(scope="module")
def scorer():
    return init_scorer(tiny.MODEL, tiny.params(seed=1), jax.random.key(2))


@functools.partial(jax.jit, static_argnums=2)
def rollout_of(policy, prompts, config=CONFIG):
    return generate(
        tiny.MODEL,
        policy,
        prompts,
        jax.random.key(5),
        max_new_tokens=config.max_new_tokens,
        stop_ids=(1,),
        pad_id=0,
        temperature=config.temperature,
    )


def prompts_of(n=8, width=12):
    return tiny.prompts(np.random.default_rng(0), n, width)


def unmoved(policy, scorer, kl_coef=0.05):
    """A state that is only prepared from."""
    params, extras = {"policy": policy, "value": scorer}, {"kl_coef": jnp.float32(kl_coef)}
    return TrainState(jnp.int32(0), params, None, jnp.uint32(0), extras)


def prepared(policy, scorer, config=CONFIG, prompts=None, reference=None):
    prompts = prompts_of() if prompts is None else prompts
    rollout = rollout_of(policy, prompts, config)
    scores = jax.jit(lambda scorer, rollout: model_reward(tiny.MODEL, scorer)(rollout))(
        scorer, rollout
    )
    state = unmoved(policy, scorer)
    frozen = {"reference": reference or policy}
    prepare = jax.jit(actor_critic.prepare, static_argnums=(0, 1))
    experience, metrics = prepare(config, MODEL, state, frozen, rollout, scores)
    return state.params, experience, metrics


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_minibatch_is_on_policy(policy, scorer, temperature):
    """Invariant 3. Break the temperature of any of the three `completion_logprobs` calls."""
    config = dataclasses.replace(CONFIG, temperature=temperature)
    params, experience, metrics = prepared(policy, scorer, config)
    _, _, first = ppo_loss(config, MODEL, params, (experience, None))
    first, start = mean(first), mean(metrics)
    assert first["val/ratio"] == pytest.approx(1, abs=1e-6)
    assert first["policy/approxkl_avg"] == pytest.approx(0, abs=1e-10)
    assert first["policy/clipfrac_avg"] == 0
    for name in ("kl/k1", "kl/k2", "kl/k3", "objective/kl", "objective/non_score_reward"):
        assert start[name] == pytest.approx(0, abs=1e-6)
    # The sampler saw the same distribution: cached decoding is the full forward.
    assert start["val/sampler_logprob_gap"] < 1e-5


def test_prompt_padding_changes_no_metric(policy, scorer):
    """Invariant 1 through the whole of `prepare`: wider prompts, the same numbers."""
    narrow, wide = prompts_of(width=10), prompts_of(width=19)
    reference = tiny.params(seed=3)
    _, a, metrics_a = prepared(policy, scorer, prompts=narrow, reference=reference)
    _, b, metrics_b = prepared(policy, scorer, prompts=wide, reference=reference)
    for name, value in mean(metrics_a).items():
        assert mean(metrics_b)[name] == pytest.approx(value, rel=2e-4, abs=1e-5), name
    for field in ("logprobs_BC", "values_BC", "advantages_BC", "returns_BC"):
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), atol=2e-4)


def test_scores_reach_the_update_as_float32(policy, scorer):
    """Invariant 4: with gamma = lambda = 1 and no KL the first return is the score itself."""
    config = dataclasses.replace(CONFIG, lam=1.0)
    rollout = rollout_of(policy, prompts_of())
    scores = jnp.linspace(-0.7, 0.7, 8)
    state, frozen = unmoved(policy, scorer), {"reference": policy}
    experience, _ = actor_critic.prepare(config, MODEL, state, frozen, rollout, scores)
    np.testing.assert_allclose(experience.returns_BC[:, 0], scores, atol=1e-5)
    assert experience.returns_BC.dtype == jnp.float32


def test_a_completion_without_a_stop_token_scores_one_less(policy, scorer):
    config = dataclasses.replace(CONFIG, missing_stop_score=-1.0, lam=1.0)
    rollout = rollout_of(policy, prompts_of())._replace(stopped_B=jnp.arange(8) % 2 == 0)
    rollout, scores = final_scores(config, rollout, jnp.full(8, 0.7))
    state, frozen = unmoved(policy, scorer, 0.0), {"reference": policy}
    experience, metrics = actor_critic.prepare(config, MODEL, state, frozen, rollout, scores)
    np.testing.assert_allclose(experience.returns_BC[:, 0], [0.7, -0.3] * 4, atol=1e-5)
    assert mean(metrics)["objective/scores"] == pytest.approx(0.2, abs=1e-6)


def state_of(config, policy, scorer):
    value = scorer if config.value_init == "reward" else policy
    return actor_critic.init_state(config, MODEL, OPTIMIZER, 0, policy, value)


def iterate(config, policy, scorer, reward, ptx=None, steps=1):
    iteration = make_iteration(ppo(config, MODEL, tiny.ENDS), OPTIMIZER, reward)
    params = reward.params if isinstance(reward, DeviceReward) else ()
    frozen = {"reference": policy, "reward": params}
    state, metrics = state_of(config, policy, scorer), None
    for _ in range(steps):
        state, metrics = iteration(state, Inputs(prompts_of(), ptx), frozen)
    return state, mean(jax.device_get(metrics))


def test_host_and_compiled_rewards_make_the_same_update(policy, scorer):
    """A host reward only splits the program in two."""
    pure = model_reward(tiny.MODEL, scorer)
    host = HostReward(lambda rollout: np.asarray(pure(rollout)))
    a, metrics_a = iterate(CONFIG, policy, scorer, pure)
    b, metrics_b = iterate(CONFIG, policy, scorer, host)
    chex.assert_trees_all_close(a.params, b.params, atol=3e-5)
    assert metrics_a["objective/scores"] == pytest.approx(metrics_b["objective/scores"], abs=1e-5)


def test_an_iteration_without_a_finite_score_skips_the_updates(policy, scorer):
    """Break `update_if_finite`, or leave it out."""
    scores = np.full(CONFIG.episodes, np.nan)
    before = state_of(CONFIG, policy, scorer)
    after, metrics = iterate(CONFIG, policy, scorer, HostReward(lambda rollout: scores))
    chex.assert_trees_all_equal(after.params, before.params)
    chex.assert_trees_all_equal(after.opt_state, before.opt_state)
    assert metrics["skipped"] == 1 and metrics["val/dropped_rows"] == CONFIG.episodes


def test_ppo_learns_a_rule(policy, scorer):
    """Rewarding one token makes that token frequent: the sign of every term is right."""

    def wants_token_nine(_, rollout):
        hits = (rollout.completion_BC.ids == 9) * rollout.mask_BC
        return hits.sum(1) / rollout.mask_BC.sum(1)

    config = dataclasses.replace(CONFIG, value_init="zero", kl_coef=0.01)
    _, first = iterate(config, policy, scorer, DeviceReward(wants_token_nine))
    _, last = iterate(config, policy, scorer, DeviceReward(wants_token_nine), steps=40)
    assert last["objective/scores"] > first["objective/scores"] + 0.3
    assert last["objective/kl"] > 0.1


def test_value_model_starts_as_the_reward_model_or_at_zero(policy, scorer):
    from_reward = state_of(CONFIG, policy, scorer).params
    chex.assert_trees_all_equal(from_reward["value"], scorer)
    from_zero = state_of(dataclasses.replace(CONFIG, value_init="zero"), policy, scorer).params
    values = completion_values(tiny.MODEL, from_zero["value"], rollout_of(policy, prompts_of()))
    assert not np.any(values)


def test_ema_follows_the_policy(policy, scorer):
    config = dataclasses.replace(CONFIG, ema_decay=0.9)
    state, _ = iterate(config, policy, scorer, model_reward(tiny.MODEL, scorer))
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, policy, state.params["policy"])
    chex.assert_trees_all_close(state.extras["average"], expected, atol=1e-6)


def test_ptx_adds_the_language_model_gradient(policy, scorer):
    """With a huge coefficient the pretraining rows become more likely."""
    rows = tiny.padded(tiny.random_rows(np.random.default_rng(1), 4), 20)
    config = dataclasses.replace(CONFIG, ptx_coef=27.8, ptx_rows=4)
    reward = model_reward(tiny.MODEL, scorer)
    _, first = iterate(config, policy, scorer, reward, rows)
    _, last = iterate(config, policy, scorer, reward, rows, steps=10)
    assert last["loss/ptx_avg"] < first["loss/ptx_avg"] - 0.1


def test_the_adaptive_coefficient_moves(policy, scorer):
    config = dataclasses.replace(CONFIG, kl_controller="adaptive")
    state, _ = iterate(config, policy, scorer, model_reward(tiny.MODEL, scorer))
    # KL is 0 at first, below its target: the error is clipped at -0.2.
    assert float(state.extras["kl_coef"]) == pytest.approx(0.05 * (1 - 0.2 * 8 / 10_000), rel=1e-5)


def test_defaults_are_those_of_the_papers():
    """InstructGPT and the two studies of its implementation details; see PPOConfig."""
    c = PPOConfig()
    assert (c.gamma, c.lam, c.clip, c.value_clip, c.value_coef) == (1.0, 0.95, 0.2, 0.2, 0.1)
    assert (c.kl_coef, c.kl_target, c.kl_horizon) == (0.05, 6.0, 10_000.0)
    assert (c.kl_controller, c.missing_stop_score, c.value_init) == ("fixed", -1.0, "reward")
    with pytest.raises(UserError, match="3 minibatches do not divide"):
        PPOConfig(minibatches=3)


def test_every_seed_and_iteration_draws_anew(policy, scorer):
    """Invariant 10. Break the seed or the step in either `keys.derive` of iteration.py."""
    sample = jax.jit(
        functools.partial(collect, CONFIG, tiny.MODEL, tiny.ENDS, policy, prompts_of())
    )
    draws = [sample((np.uint32(seed), step)).completion_BC.ids for seed, step in PLACES]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2]) and np.any(draws[0] != draws[3])

    scored = rollout_of(policy, prompts_of()), jnp.linspace(-1.0, 1.0, 8), None
    start = state_of(CONFIG, policy, scorer)

    @jax.jit
    def learned(seed, step):
        state = dataclasses.replace(start, seed=seed, step=step)
        frozen = {"reference": policy}
        return learn(ppo(CONFIG, MODEL, tiny.ENDS), OPTIMIZER, state, scored, frozen)[0].params

    first, again, *others = (learned(np.uint32(seed), step) for seed, step in PLACES)
    chex.assert_trees_all_equal(first, again)
    # Another order of the rows: other minibatches.
    for other in others:
        assert np.any(first["policy"]["embed"]["tokens"] != other["policy"]["embed"]["tokens"])


def test_no_key_is_used_twice():
    """Invariant 10. Break the `fold_in` of step or purpose in `keys.derive`."""
    purposes = ("init", "loss", "ppo/rollout", "ppo/minibatches", "reward/head", "ppo/value_head")
    seen = {
        tuple(np.asarray(jax.random.key_data(keys.derive(seed, step, purpose))).tolist())
        for seed in (0, 1)
        for step in range(50)
        for purpose in purposes
    }
    assert len(seen) == 2 * 50 * len(purposes)
