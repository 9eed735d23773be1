"""Best-of-n over all choices, judges beside a generator, and what arms of a comparison leave."""

import itertools
import json

import jax
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.evaluate.arms import Arm, path_of, sampled_tokens
from gpt_jax.evaluate.best_of import expected_best
from gpt_jax.evaluate.judging import judging
from gpt_jax.evaluate.yardstick import Yardstick, policy_of
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.rl.rewards import DeviceReward
from gpt_jax.tasks.task import Task
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.command import Common
from gpt_jax.train.state import TrainState

TOKENIZER = Tokenizer.train(["abcdefgh"] * 4, vocab_size=261)
TASK = Task(
    "letters",
    rows=lambda split: [],
    prompt=lambda row: [{"role": "user", "content": row["q"]}],
    score=lambda row, text, stopped: float("a" in text),
    verdict=lambda row, text: "right" if "a" in text else "wrong",
)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_expected_best_is_the_mean_over_all_choices(n):
    rng = np.random.default_rng(0)
    values_AN, rewards_AN = rng.normal(size=(2, 5, 3))
    choices = list(itertools.combinations(range(5), n))
    naive_N = [
        np.mean([values_AN[max(c, key=lambda a: rewards_AN[a, i]), i] for c in choices])
        for i in range(3)
    ]
    np.testing.assert_allclose(expected_best(values_AN, rewards_AN, n), naive_N, rtol=1e-12)


@pytest.mark.parametrize("n", [0, 6])
def test_more_than_there_are_cannot_be_chosen_from(n):
    with pytest.raises(UserError, match=f"best-of-{n} of 5"):
        expected_best(np.ones((5, 1)), np.ones((5, 1)), n)


def test_judges_beside_a_generator():
    right_AN = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    backwards = -right_AN.astype(float)
    found = judging(right_AN, {"backwards": backwards}, (1, 2, 4), None)
    assert found["generator"][0] == 0.25 and found["pairs"] == 4
    assert found["judges"]["perfect"][0] == 1.0 and found["judges"]["backwards"][0] == 0.0
    # Of the first prompt's four answers two are right: 5 of 6 pairs have one.
    best = [found["best_of"]["perfect"][n][0] for n in (1, 2, 4)]
    np.testing.assert_allclose(best, [0.25, 5 / 12, 0.5], rtol=1e-12)
    gains = [found["gain"]["perfect"][1], found["gain"]["backwards"][4]]
    np.testing.assert_allclose([gain[0] for gain in gains], [0.0, -0.25], atol=1e-12)


def test_without_a_pair_there_is_no_judge():
    found = judging(np.zeros((3, 2), bool), {"any": np.zeros((3, 2))}, (1,), None)
    assert found["judges"] == {"any": None, "perfect": None} and found["pairs"] == 0


def test_the_yardstick_measures_what_will_be_served():
    """The finetuned model itself is at a KL of 0, draws are a seed's own, and an average of the
    policy goes before it."""
    config = ModelConfig(vocab_size=261, context_length=64, width=16, layers=1, heads=2)
    params, mesh = init(config, jax.random.key(0)), make_mesh(MeshConfig(data=1))
    model = TextModel(config, params, TOKENIZER, mesh=mesh)
    reward = DeviceReward(lambda none, rollout: rollout.mask_BC.sum(axis=1))
    sampling = Sampling(max_new_tokens=6, n=2)
    rows = [{"q": f"question {n}"} for n in range(3)]
    yardstick = Yardstick(TASK, rows, model, reward, sampling)
    found = yardstick.of(params)
    assert abs(found["kl"]) < 1e-5 and found["reward"] == found["length"]
    assert found["gold"] == found["right"] == pytest.approx(1 - found["wrong"])
    assert yardstick.of(params) == found != yardstick.with_seed(1).of(params)
    best = yardstick.best_of(4, (1, 4))
    assert best[1]["kl"] == 0 and best[4]["kl"] == pytest.approx(np.log(4) - 0.75)
    assert best[4]["reward"] >= best[1]["reward"]
    moved = jax.tree.map(lambda x: 3.0 * x, params)
    state = TrainState(step=0, params={"policy": moved}, opt_state=(), seed=0, extras={})
    assert yardstick(state, {})["kl"] > 0.01
    yardstick.look(state, {})
    assert policy_of(state) is moved
    averaged = TrainState(0, {"policy": moved}, (), 0, {"average": params})
    assert policy_of(averaged) is params
    offline = TrainState(0, moved, (), 0, {})
    assert policy_of(offline) is moved


def test_the_path_of_many_seeds(tmp_path):
    config = Common(run_dir=str(tmp_path), seeds=2, seed=3)
    arm = Arm("an arm", "ppo", config, None)
    for seed, folder in zip((3, 4), arm.folders, strict=True):
        folder.mkdir(parents=True)
        rows = [
            {"step": 1, "objective/length": 5.0},
            {"step": 2, "objective/length": 7.0},
            {"step": 1, "eval/gold": 0.1 * seed},
            {"step": 2, "eval/gold": 0.2 * seed},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [path.name for path in arm.folders] == ["3", "4"]
    first, last = path_of(arm)
    np.testing.assert_allclose(first["gold"], [0.3, 0.4])
    np.testing.assert_allclose(last["gold"], [0.6, 0.8])
    assert last["step"].tolist() == [2, 2]
    assert sampled_tokens(arm, episodes=10) == 120.0
