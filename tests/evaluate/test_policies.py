"""All policies on the same prompts, with models that speak by rule."""

import zlib

import numpy as np
import pytest

from gpt_jax.data.left_out import LeftOut
from gpt_jax.evaluate import answers, policies
from gpt_jax.evaluate.policies import Policies, compare
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Completion
from gpt_jax.models.config import ModelConfig
from gpt_jax.rl.rewards import HostReward
from gpt_jax.tasks.task import Task
from gpt_jax.text.tokenizer import Tokenizer

WORDS = ("yes", "unsure", "no")
ROWS = [{"q": f"question {n}", "topic": n // 2} for n in range(12)]
TASK = Task(
    "yes or no",
    rows=lambda split: ROWS,
    prompt=lambda row: [{"role": "user", "content": row["q"]}],
    score=lambda row, text, stopped: WORDS[::-1].index(text) + 0.25 * stopped,
    verdict=lambda row, text: dict(zip(WORDS, ("right", "unknown", "wrong")))[text],
    kind=lambda row: "late" if row["topic"] > 3 else "early",
    cluster=lambda row: row["topic"],
)


class Speaker:
    """Says one of the words, and so much more often the right one, the better it is."""

    params, mesh = None, None
    config = ModelConfig(vocab_size=300, context_length=64, width=16, layers=1, heads=2)
    tokenizer = Tokenizer.train(["question yes unsure no"] * 4, vocab_size=262)

    def __init__(self, better):
        self.better = better

    def complete(self, prompts, sampling):
        found = []
        for prompt in prompts:
            for a in range(sampling.n):
                place = f"{prompt[-1]['content']} {a} {self.better}".encode()
                draw = zlib.crc32(place) % 100
                text = WORDS[0 if draw < self.better else 1 + draw % 2]
                ids = self.tokenizer.encode(text)
                reason = "stop" if draw % 7 else "length"
                found.append(Completion(text, ids, [-1.0] * len(ids), reason, 3))
        return found


@pytest.fixture
def compared(monkeypatch):
    monkeypatch.setattr(answers, "divergence", lambda *_: {"kl": 1.0, "entropy": 0.5})
    longer = HostReward(lambda rollout: rollout.mask_BC.sum(axis=1).tolist())
    models = Policies(Speaker(50), Speaker(20), {"PPO": Speaker(80), "PPO 2": Speaker(90)}, longer)
    return compare(models, TASK, ROWS, Sampling(n=3, max_new_tokens=12), LeftOut())


def test_every_policy_has_its_row_and_its_answers(compared):
    names = ["base", "SFT", "best-of-3", "PPO", "PPO 2"]
    assert [model["name"] for model in compared.models] == names == list(compared.answers)
    assert [len(compared.answers[name].texts_AN) for name in names] == [3, 4, 1, 3, 3]
    for model in compared.models:
        one = compared.answers[model["name"]]
        for verdict, word in zip(("right", "unknown", "wrong"), WORDS):
            share = np.mean([text == word for group in one.texts_AN for text in group])
            value = model[verdict]
            assert (value[0] if verdict == "right" else value) == pytest.approx(share)
        assert {kind: of["prompts"] for kind, of in model["by_kind"].items()} == {
            "early": 8,
            "late": 4,
        }


def test_differences_from_sft_are_paired_and_add_up(compared):
    sft = compared.models[1]
    assert sft["win_rate_vs_sft"] is None and "style_vs_sft" not in sft
    for model in compared.models[:1] + compared.models[2:]:
        mean, low, high = model["right_difference_vs_sft"]
        assert mean == pytest.approx(model["right"][0] - sft["right"][0]) and low < high
        parts = model["style_vs_sft"][0] + model["substance_vs_sft"][0]
        assert parts == pytest.approx(model["difference_vs_sft"][0])
        assert model["difference_vs_sft"][0] == pytest.approx(model["gold"][0] - sft["gold"][0])


def test_the_reward_model_meets_the_policies_own_answers(compared):
    assert list(compared.own_samples) == ["SFT", "PPO", "PPO 2"]
    texts = np.array(compared.answers["SFT"].texts_AN)
    ended = compared.answers["SFT"].stopped_AN
    pairs = sum(
        (texts[a, n], texts[b, n]) == ("yes", "no") and ended[a, n] and ended[b, n]
        for n in range(len(ROWS))
        for a in range(4)
        for b in range(4)
    )
    assert 0 < pairs == compared.own_samples["SFT"]["right_over_wrong_pairs"]


def test_rewards_are_those_of_each_answer(compared):
    """Break it: reshape the rewards of all answers to (prompts, answers)."""
    for model in compared.models:
        texts = [text for group in compared.answers[model["name"]].texts_AN for text in group]
        lengths = [len(Speaker.tokenizer.encode(text)) for text in texts]
        assert model["reward"][0] == pytest.approx(np.mean(lengths))
    own = compared.answers["SFT"]
    tokens = own.lengths_AN
    right = own.scores_AN
    counted = [
        0.5 + 0.5 * np.sign((right[a, n] - right[b, n]) * (tokens[a, n] - tokens[b, n]))
        for n in range(len(ROWS))
        for a in range(4)
        for b in range(a)
        if right[a, n] != right[b, n]
    ]
    assert compared.own_samples["SFT"]["accuracy"][0] == pytest.approx(np.mean(counted))


def test_without_a_score_the_reward_decides(monkeypatch):
    monkeypatch.setattr(policies.answers, "divergence", lambda *_: {"kl": 1.0, "entropy": 0.5})
    first = HostReward(lambda rollout: rollout.completion_BC.ids[:, 0].tolist())
    models = Policies(Speaker(50), Speaker(20), {"PPO": Speaker(80)}, first)
    silent = Task("silent", TASK.rows, TASK.prompt, None)
    found = compare(models, silent, ROWS, Sampling(n=2, max_new_tokens=12), LeftOut())
    assert found.own_samples == {}
    ppo, sft = found.models[-1], found.models[1]
    assert ppo["gold"] is None and "right" not in ppo and "style_vs_sft" not in ppo
    assert ppo["difference_vs_sft"][0] == pytest.approx(ppo["reward"][0] - sft["reward"][0])
