"""Weighted sums of rewards on the device and on the host, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt_jax.errors import UserError
from gpt_jax.rl import weighted
from gpt_jax.rl.actor_critic import ActorCritic, PPOConfig, ppo
from gpt_jax.rl.iteration import SplitIteration, make_iteration
from gpt_jax.rl.reward_spec import parse
from gpt_jax.rl.rewards import HostReward
from gpt_jax.rl.weighted import HostParts, Weighted, host_scores, on_device, traced_scores
from gpt_jax.rl.workers import RuleProcess
from tests import tiny
from tests.rl.test_rewards import RECORDS, SPOKEN, TOKENIZER
from tests.rl.test_workers import length, never, only_first

SPEC = (
    "model:A - 0.5*variance(model:A, model:B) + 2*min(model:B, verifier:exact) + 0.25*rule:brevity"
)
# Scores that are made up from what everyone can see of a rollout.
MODELS = {
    "model:A": lambda params, rollout: params["x"] * rollout.mask_BC.sum(1),
    "model:B": lambda params, rollout: params["x"] - rollout.stopped_B,
}
PARAMS = {"0": {"x": jnp.float32(0.1)}, "1": {"x": jnp.float32(0.7)}}
A, B = 0.1 * SPOKEN.mask_BC.sum(1), 0.7 - SPOKEN.stopped_B
LENGTHS = np.array([2, 12, 9, 0])  # of the texts


def mixed(rules, **more):
    ask = RuleProcess(list(rules.values()), seconds=5, processes=1)
    host = HostParts(tuple(rules), ask, more, RECORDS, TOKENIZER, set())
    return Weighted(parse(SPEC), MODELS, host)


def test_the_sum_is_that_of_its_terms():
    """Break it: weigh the metrics, or take the variance as of a sample."""
    exact = np.array([1, 0, 0, 1])
    own = HostReward(lambda rollout: exact.tolist(), "verifier")
    reward = mixed({"rule:brevity": length}, **{"verifier:exact": own})
    assert not on_device(reward)
    scores, metrics = host_scores(reward, lambda frozen: frozen)({"reward": PARAMS}, SPOKEN)
    terms = [A, np.var([A, B], axis=0), np.minimum(B, exact), LENGTHS]
    expected = np.array([1, -0.5, 2, 0.25]) @ np.array(terms, np.float64)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert scores.dtype == np.float32
    for term, values in zip(parse(SPEC), terms, strict=True):
        total, count = metrics[f"objective/scores/{term.text}"]
        assert (total / count) == pytest.approx(values.mean(), rel=1e-5, abs=1e-6)


def test_a_row_without_a_part_is_left_out_of_the_sum_and_that_mean(capfd):
    """A rule that raises costs its row: break it by letting 0 stand for no score."""
    own = HostReward(lambda rollout: [None, 1, 1, 1], "verifier")
    reward = mixed({"rule:brevity": length}, **{"verifier:exact": own})
    scores, metrics = host_scores(reward, lambda frozen: frozen)({"reward": PARAMS}, SPOKEN)
    assert np.isnan(scores[0]) and np.isfinite(scores[1:]).all()
    assert metrics["objective/scores/min(model:B, verifier:exact)"][1] == 3
    assert metrics["objective/scores/model:A"][1] == 4
    ask = RuleProcess([only_first], processes=1)
    parts = HostParts(("first",), ask, {}, RECORDS, TOKENIZER, set())
    for _ in range(2):
        np.testing.assert_array_equal(parts(SPOKEN)[0], [1, np.nan, np.nan, np.nan])
    said = capfd.readouterr().err
    assert said.count("the reward first raised KeyError: 'none' for the prompt of row 1: ") == 1


def test_a_rule_that_always_fails_ends_the_run():
    parts = HostParts(("bad",), RuleProcess([never], processes=1), {}, RECORDS, TOKENIZER, set())
    with pytest.raises(UserError, match="reward bad gave none of the 4 .*ValueError: never.*mend"):
        parts(SPOKEN)


def test_what_is_on_the_device_alone_is_one_program():
    reward = Weighted(parse("mean(model:A, model:B) - 3*model:A"), MODELS)
    assert on_device(reward)
    scores, metrics = jax.jit(lambda p, r: traced_scores(reward, p, r))(PARAMS, SPOKEN)
    np.testing.assert_allclose(scores, (A + B) / 2 - 3 * A, rtol=1e-5, atol=1e-6)
    assert float(metrics["objective/scores/model:A"][0]) == pytest.approx(A.sum(), rel=1e-5)
    method = ppo(PPOConfig(), ActorCritic(tiny.MODEL, tiny.MODEL), tiny.ENDS)
    whole = make_iteration(method, optax.sgd(0.1), reward)
    assert not isinstance(whole, SplitIteration)
    split = make_iteration(method, optax.sgd(0.1), mixed({"rule:brevity": length}))
    assert isinstance(split, SplitIteration)


def test_of_many_processes_one_asks_the_rules(monkeypatch):
    """Break it: ask on every process, each with a time limit of its own."""
    asked = []

    def from_main(compute, shape):
        asked.append(shape)
        return np.ones(shape, np.float32)

    monkeypatch.setattr(weighted.distributed, "from_main", from_main)
    reward = mixed({"rule:brevity": never, "verifier:exact": never})
    scores, _ = host_scores(reward, lambda frozen: frozen)({"reward": PARAMS}, SPOKEN)
    assert asked == [(2, 4)] and np.isfinite(scores).all()
