"""Answers behind prompts: the tokens that a reward model and another policy read."""

import jax
import numpy as np
import pytest

from gpt_jax.data.batches import pad_prompts
from gpt_jax.evaluate.answers import behind, divergence, score
from gpt_jax.generate.text import Completion
from gpt_jax.models import init, init_scorer
from gpt_jax.models.config import ModelConfig
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.rl.rewards import HostReward, model_reward
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["yes"], 261)
MODEL = ModelConfig(vocab_size=32, context_length=24, width=16, layers=1, heads=2)
ROWS = [[5, 9, 11], [8], [7, 7]]
ANSWERS = [
    Completion("one", [12, 13, TOKENIZER.eos_id], [-1.0, -2.0, -3.0], "stop", 3),
    Completion("two", [14, 15], [-1.0, -2.0], "stop_string", 1),
    Completion("three", [16, 17, 18, 19], [-1.0] * 4, "length", 2),
]


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


def test_completions_lie_behind_any_prompts():
    rollout = behind(pad_prompts(ROWS, 4, 0), ANSWERS, TOKENIZER, 5)
    eos = TOKENIZER.eos_id
    expected = [[12, 13, eos, 0, 0], [14, 15, eos, 0, 0], [16, 17, 18, 19, 0]]
    np.testing.assert_array_equal(rollout.completion_BC.ids, expected)
    np.testing.assert_array_equal(rollout.mask_BC, np.array(expected) > 0)
    np.testing.assert_array_equal(
        rollout.completion_BC.positions, [[3, 4, 5, 0, 0], [1, 2, 3, 0, 0], [2, 3, 4, 5, 0]]
    )
    assert rollout.stopped_B.tolist() == [True, True, False]
    # Full to the last token there is no room for the stop token.
    full = behind(pad_prompts(ROWS, 4, 0), ANSWERS[1:2] * 3, TOKENIZER, 2)
    np.testing.assert_array_equal(full.completion_BC.ids, [[14, 15]] * 3)


def test_rewards_and_distances_are_those_of_each_answer_alone(mesh):
    """Invariant 1. Break it: leave out the row padding's `[:n]` in `_join`."""
    params = jax.tree.map(lambda x: 5.0 * x, init(MODEL, jax.random.key(0)))
    other = jax.tree.map(lambda x: 5.0 * x, init(MODEL, jax.random.key(1)))
    reward = model_reward(MODEL, init_scorer(MODEL, params, jax.random.key(2)))
    with jax.set_mesh(mesh):
        rollout = behind(pad_prompts(ROWS, 4, 0), ANSWERS, TOKENIZER, 5)
        scores = score(rollout, reward, mesh)
        moved = divergence(MODEL, params, other, rollout, 1.0, mesh)
        itself = divergence(MODEL, params, params, rollout, 1.0, mesh)
    assert scores.shape == (3,)
    for i in range(3):
        alone = behind(pad_prompts(ROWS[i : i + 1], 8, 0), ANSWERS[i : i + 1], TOKENIZER, 7)
        np.testing.assert_allclose(reward(alone)[0], scores[i], atol=1e-5)
    ours, entropy = completion_logprobs(MODEL, params, rollout, 1.0)
    theirs, _ = completion_logprobs(MODEL, other, rollout, 1.0)
    np.testing.assert_allclose(moved["kl"], float((ours - theirs).sum(1).mean()), rtol=1e-4)
    np.testing.assert_allclose(moved["entropy"], float(entropy.sum()) / 10, rtol=1e-4)
    assert itself["kl"] == 0.0


def test_a_reward_in_python_sees_all_rows(mesh):
    rollout = behind(pad_prompts(ROWS, 4, 0), ANSWERS, TOKENIZER, 5)
    lengths = HostReward(lambda rollout: rollout.mask_BC.sum(axis=1).tolist())
    np.testing.assert_array_equal(score(rollout, lengths, mesh), [3.0, 3.0, 4.0])
