"""Policies that come from one finetuned model, against it: what RLHF adds to a task's own scores.

Each is also scored by the reward model, and measured by how far it has moved: its KL divergence
from the finetuned model, and its entropy. Between them stands best-of-n: of n answers of the
finetuned model the one that the reward model likes best, which moves as far as log n - (n-1)/n
nats at most (Stiennon et al. 2020, G.3), and needs no training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.data.left_out import DROPPED, LeftOut
from gpt_jax.data.packing import pad_prompt_records
from gpt_jax.errors import UserError
from gpt_jax.evaluate import answers
from gpt_jax.evaluate.statistics import (
    Interval,
    best_of_others,
    mean_interval,
    paired_difference,
    win_rate,
)
from gpt_jax.evaluate.task import Performance, evaluate_task, judge
from gpt_jax.evaluate.verdicts import ranked_pairs, shares, shares_by_kind, style_and_substance
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
      learned: what was learned from the reward, in the finetuned model's layout and shape.
      reward: a reward model's, which reads the finetuned model's tokens.
    """

    finetuned: TextModel
    base: TextModel
    learned: TextModel
    reward: Reward


class Comparison(NamedTuple):
    """What `compare` finds.

    Attributes:
      models: what a report shows of each model, in the order in which they came to be: its name,
        gold, reward, the difference from SFT, its style and its substance, and the win rate against
        SFT; right, unknown, wrong, by_kind and the difference of right from SFT; kl_from_sft,
        length, entropy.
      answers: by the models' names.
      own_samples: how well the reward model ranks what SFT and PPO answer themselves; {} if the
        task has no score.
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
        return np.array([answers.score(group, policies.reward, sft.mesh) for group in groups])

    rewards = {"base": rewards_of("base"), "SFT": rewards_of("SFT")}
    best = f"best-of-{n}"
    chosen_N, candidates_AN = rewards["SFT"][:n].argmax(axis=0), found["SFT"].completions_AN
    found[best] = judge(task, rows, [[candidates_AN[a][i] for i, a in enumerate(chosen_N)]])
    found |= evaluate_task({"PPO": policies.learned}, task, sampling, rows)
    rewards |= {best: rewards_of(best), "PPO": rewards_of("PPO")}

    moved = {best: {"kl": float(np.log(n) - (n - 1) / n)}}
    for name, model in (("SFT", sft), ("PPO", policies.learned)):
        (group, *_) = behind_prompts(found[name])
        moved[name] = answers.divergence(
            sft.config, model.params, sft.params, group, sampling.temperature, sft.mesh
        )
    clusters = [task.cluster(row) for row in rows] if task.cluster else None
    kinds = [task.kind(row) for row in rows] if task.kind else [None] * len(rows)
    scores = {name: one.scores_AN for name, one in found.items()} if task.score else rewards

    def against_sft(name: str) -> dict:
        """The difference of a model's scores from SFT's, prompt by prompt, and who wins."""
        ours, theirs, meets = scores[name], scores["SFT"], True
        if name == "SFT":
            return {"win_rate_vs_sft": None}
        result = {"difference": paired_difference(ours.mean(0), theirs.mean(0), clusters)}
        if task.verdict:
            judged = found[name].verdicts_AN, found["SFT"].verdicts_AN
            right, right_sft = ((verdicts_AN == "right").mean(0) for verdicts_AN in judged)
            result["right_difference"] = paired_difference(right, right_sft, clusters)
            for part, gains_N in zip(
                ("style", "substance"), style_and_substance(ours, theirs, *judged), strict=True
            ):
                result[part] = mean_interval(gains_N, clusters)
        if name == best:
            ours = np.take_along_axis(theirs, best_of_others(rewards["SFT"]), axis=0)
            meets = np.eye(n + 1)[:, :, None]
        result |= win_rate(ours, theirs, clusters, meets_ABN=meets)._asdict()
        return {f"{key}_vs_sft": value for key, value in result.items()}

    def row_of(name: str) -> dict:
        one = found[name]
        # The answers to one prompt are averaged before anything is resampled.
        return {
            "name": name,
            "gold": mean_interval(one.scores_AN.mean(0), clusters) if task.score else None,
            "reward": mean_interval(rewards[name].mean(0), clusters),
            **against_sft(name),
            **(shares(one.verdicts_AN, clusters) if task.verdict else {}),
            "by_kind": shares_by_kind(one.verdicts_AN, clusters, kinds) if task.verdict else {},
            "kl_from_sft": moved.get(name, {}).get("kl"),
            "length": float(one.lengths_AN.mean()),
            "entropy": moved.get(name, {}).get("entropy"),
        }

    own_samples = {}
    if task.score:
        own_samples = {n: judge_rewards(rewards[n], found[n], clusters) for n in ("SFT", "PPO")}
    return Comparison([row_of(name) for name in found], found, own_samples)


def judge_rewards(
    rewards_AN: np.ndarray, answers: Performance, clusters_N: Sequence[Hashable] | None
) -> dict:
    """Whether a reward model tells the better of two answers of one model to one prompt.

    Args:
      rewards_AN: what it gives to every answer.
      answers: with their scores and, if the task has them, their verdicts.
      clusters_N: as for `mean_interval`.

    Returns:
      `accuracy` [mean, low, high] on all `pairs` of answers with different scores, and
      `right_over_wrong` on the `right_over_wrong_pairs` of a right answer and a wrong one, both
      ended by themselves; None where there is no such pair.
    """
    verdicts_AN = answers.verdicts_AN
    of_scores = ranked_pairs(rewards_AN, answers.scores_AN)
    if verdicts_AN is None:
        of_verdicts = ranked_pairs(rewards_AN, answers.scores_AN, False)
    else:
        decided_AN = answers.stopped_AN & (verdicts_AN != "unknown")
        of_verdicts = ranked_pairs(rewards_AN, verdicts_AN == "right", decided_AN)

    def interval(correct_P: np.ndarray, prompts_P: np.ndarray) -> Interval | None:
        ids = prompts_P.tolist() if clusters_N is None else [clusters_N[n] for n in prompts_P]
        return mean_interval(correct_P, ids) if len(correct_P) else None

    return {
        "accuracy": interval(*of_scores),
        "pairs": len(of_scores[0]),
        "right_over_wrong": interval(*of_verdicts),
        "right_over_wrong_pairs": len(of_verdicts[0]),
    }
