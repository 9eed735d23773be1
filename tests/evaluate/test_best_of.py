"""Best-of-n as a policy: the best by the judge, for every prompt, in its place."""

import jax
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.evaluate.best_of import BestOf, reward_judge
from gpt_jax.evaluate.task import evaluate_task
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Completion, TextModel
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.rl.rewards import DeviceReward, HostReward, record_reward
from gpt_jax.tasks.task import Task
from gpt_jax.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["abcdefgh"] * 4, vocab_size=261)
ROWS = [{"q": f"question {n}"} for n in range(5)]


def ask(prompts, sampling):
    """Numbers its answers, prompt by prompt."""
    return [
        Completion(f"{prompt} {i}", [5] * (1 + i), [-1.0] * (1 + i), "stop", 3)
        for prompt in prompts
        for i in range(sampling.n)
    ]


def test_the_best_of_each_n_in_the_order_of_the_prompts():
    seen = []

    def judge(prompts, completions):
        seen.extend(zip(prompts, completions))
        places = [int(c.text.split()[-1]) for c in completions]
        return [{1: 3.0, 2: 3.0, 4: 1.0, 5: np.nan}.get(place, 0.0) for place in places]

    found = BestOf(ask, judge, 3).complete(["a", "b"], Sampling(n=2))
    assert [c.text for c in found] == ["a 1", "a 4", "b 1", "b 4"]
    assert all(c.text.startswith(prompt) for prompt, c in seen) and len(seen) == 12
    assert [c.text for c in BestOf(ask, judge, 1).complete(["a", "b"])] == ["a 0", "b 0"]


def test_where_no_score_is_finite_the_first_answer_stands():
    best = BestOf(ask, lambda prompts, completions: [np.nan] * len(completions), 3)
    assert [c.text for c in best.complete(["a"])] == ["a 0"]


def test_what_cannot_be_judged():
    with pytest.raises(UserError, match="shape .2,. for 3 answers"):
        BestOf(ask, lambda *_: [1.0, 2.0], 3).complete(["a"])
    with pytest.raises(UserError, match="nothing to choose from"):
        BestOf(ask, lambda *_: [], 0).complete(["a"])


def test_a_task_takes_it_for_a_model_and_a_reward_for_a_judge():
    """Of a real model's answers those with the most letters a, by a reward of either kind."""
    config = ModelConfig(vocab_size=261, context_length=64, width=16, layers=1, heads=2)
    model = TextModel(config, init(config, jax.random.key(0)), TOKENIZER)
    letters = Task(
        "letters",
        rows=lambda split: ROWS,
        prompt=lambda row: [{"role": "user", "content": row["q"]}],
        score=lambda row, text, stopped: float(len(text)),
    )
    sampling = Sampling(max_new_tokens=6)
    by_rule = record_reward(lambda record, text, stopped: len(text), _Any(), TOKENIZER)
    by_length = DeviceReward(lambda _, rollout: rollout.mask_BC.sum(1))
    for reward in (by_rule, by_length):
        judge = reward_judge(reward, model, 6)
        found = evaluate_task(
            {"one": model, "best": BestOf(model.complete, judge, 4)}, letters, sampling, ROWS
        )
        prompts = [letters.prompt(row) for row in ROWS]
        every = model.complete(prompts, Sampling(max_new_tokens=6, n=4))
        chosen = found["best"].completions_AN[0]
        best, longest = (
            np.array([len(c.tokens if reward is by_length else c.text) for c in some])
            for some in (chosen, every)
        )
        np.testing.assert_array_equal(best, longest.reshape(5, 4).max(axis=1))
    assert isinstance(by_rule, HostReward)


class _Any:
    """Records of any number."""

    def __getitem__(self, number):
        return {}
