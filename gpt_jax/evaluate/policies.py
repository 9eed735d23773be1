"""Policies that come from one finetuned model, against it: what RLHF adds to a task's own scores.

Each is also scored by the reward model, and measured by how far it has moved: its KL divergence
from the finetuned model, and its entropy. Between them stands best-of-n: of n answers of the
finetuned model the one that the reward model likes best, which moves as far as log n - (n-1)/n
nats at most (Stiennon et al. 2020, G.3), and needs no training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from gpt_jax.data.left_out import DROPPED, LeftOut
from gpt_jax.data.packing import pad_prompt_records
from gpt_jax.errors import UserError
from gpt_jax.evaluate import answers
from gpt_jax.evaluate.statistics import best_of_others, win_rate
from gpt_jax.evaluate.summary import Judged, against, by_itself, judge_rewards, topics_of
from gpt_jax.evaluate.task import Performance, evaluate_task, judge
from gpt_jax.generate.sampler import Rollout
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.rl.rewards import Reward
from gpt_jax.tasks.task import Task
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer


class Policies(NamedTuple):
    """What is compared.

    Attributes:
      finetuned: what the others are measured from.
      base: what it was finetuned from, in its own layout.
      learned: what was learned from the reward, by name, in the finetuned model's layout and
        shape.
      reward: a reward model's, which reads the finetuned model's tokens.
    """

    finetuned: TextModel
    base: TextModel
    learned: Mapping[str, TextModel]
    reward: Reward


class Comparison(NamedTuple):
    """What `compare` finds.

    Attributes:
      models: what a report shows of each model, in the order in which they came to be: its name,
        the fields of `by_itself`, and those of `against` and `WinRate` with `_vs_sft` behind.
      answers: by the models' names.
      own_samples: how well the reward model ranks the answers of SFT, and of what was learned,
        among themselves (`judge_rewards`); {} if the task has no score.
    """

    models: list[dict]
    answers: dict[str, Performance]
    own_samples: dict[str, dict]


def fitting_rows(task: Task, tokenizer: Tokenizer, room: int, left_out: LeftOut) -> list[dict]:
    """The held-out rows whose prompt fits in `room` tokens, as turns and as a document alike.

    Raises:
      UserError: if none does.
    """
    rows = task.rows("test")
    layouts = (chat.render_prompt, chat.render_document_prompt)
    fitting = [
        row
        for row in rows
        if all(chat.shorten(task.prompt(row), tokenizer, room, layout) for layout in layouts)
    ]
    left_out.add(DROPPED, "held-out prompts", len(rows), room, len(rows) - len(fitting))
    if not fitting:
        raise UserError(
            f"none of the held-out prompts fits in {room} tokens; give shorter ones, or lower "
            "--ppo.max-new-tokens"
        )
    return fitting


def compare(
    policies: Policies,
    task: Task,
    rows: Sequence[dict],
    sampling: Sampling,
    left_out: LeftOut,
) -> Comparison:
    """All policies on the same prompts.

    Args:
      policies: what is compared.
      task: what is asked; without a score of its own the reward model's decides who wins.
      rows: of the task.
      sampling: how each answers; its n is that of best-of-n.
      left_out: counts the prompts that had to be shortened.
    """
    sft, n = policies.finetuned, sampling.n
    # One more, so that best-of-n meets answers that it was not chosen from.
    more = dataclasses.replace(sampling, n=n + 1)
    found = evaluate_task({"base": policies.base}, task, sampling, rows)
    found |= evaluate_task({"SFT": sft}, task, more, rows)
    prompts = pad_prompt_records(
        [{"prompt": task.prompt(row)} for row in rows],
        sft.tokenizer,
        sft.config.context_length - sampling.max_new_tokens,
        left_out,
        "held-out prompts",
    )

    def behind_prompts(performance: Performance) -> list[Rollout]:
        return [
            answers.behind(prompts, group, sft.tokenizer, sampling.max_new_tokens)
            for group in performance.completions_AN
        ]

    def rewards_of(name: str) -> np.ndarray:
        groups = behind_prompts(found[name])
        # Together, so that only the last batch of all has rows that are not needed.
        together = jax.tree.map(lambda *xs: np.concatenate(xs), *groups)
        scores = answers.score(together, policies.reward, sft.mesh)
        return scores.reshape(len(groups), len(rows))

    rewards = {"base": rewards_of("base"), "SFT": rewards_of("SFT")}
    best = f"best-of-{n}"
    chosen_N, candidates_AN = rewards["SFT"][:n].argmax(axis=0), found["SFT"].completions_AN
    found[best] = judge(task, rows, [[candidates_AN[a][i] for i, a in enumerate(chosen_N)]])
    rewards[best] = rewards["SFT"][:n].max(axis=0, keepdims=True)
    found |= evaluate_task(policies.learned, task, sampling, rows)
    rewards |= {name: rewards_of(name) for name in policies.learned}

    moved = {best: {"kl": float(np.log(n) - (n - 1) / n)}}
    for name, model in {"SFT": sft, **policies.learned}.items():
        (group, *_) = behind_prompts(found[name])
        moved[name] = answers.divergence(
            sft.config, model.params, sft.params, group, sampling.temperature, sft.mesh
        )
    judged = {
        name: Judged(one, rewards[name], **moved.get(name, {})) for name, one in found.items()
    }
    topics = topics_of(task, rows)

    def against_sft(name: str) -> dict:
        """What sets a model apart from SFT, and who wins."""
        if name == "SFT":
            return {"win_rate_vs_sft": None}
        ours, theirs, meets = judged[name].scores_AN, judged["SFT"].scores_AN, True
        if name == best:
            ours = np.take_along_axis(theirs, best_of_others(rewards["SFT"]), axis=0)
            meets = np.eye(n + 1)[:, :, None]
        result = against(judged[name], judged["SFT"], topics.clusters_N)
        result |= win_rate(ours, theirs, topics.clusters_N, meets_ABN=meets)._asdict()
        return {f"{key}_vs_sft": value for key, value in result.items()}

    models = [
        {"name": name, **by_itself(one, topics), **against_sft(name)}
        for name, one in judged.items()
    ]
    sampled = ("SFT", *policies.learned)
    own_samples = {name: judge_rewards(judged[name], topics.clusters_N) for name in sampled}
    return Comparison(models, found, own_samples if task.score else {})
