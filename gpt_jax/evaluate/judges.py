"""Who says which of two answers is better: scores of any kind, or a model that is told a rubric.

A model as judge likes the answer that it reads first, or last, more than its own criteria account
for (Zheng et al. 2023, "Judging LLM-as-a-judge", 3.3). So it is asked about every pair in both
orders, and where its verdicts do not agree, the pair is a tie. How often that was so, and how often
no verdict could be read, stands beside what came of it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gpt_jax.errors import UserError
from gpt_jax.evaluate.elo import Game
from gpt_jax.evaluate.statistics import mean_interval
from gpt_jax.evaluate.task import Performance
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Complete
from gpt_jax.rl.rewards import text_scorer
from gpt_jax.rl.scoring import reward_files
from gpt_jax.text.chat import Message
from gpt_jax.train.origin import load_params

BATCH = 256  # answers that a reward model reads at a time
RUBRIC = "The better answer is true, does what was asked, and says no more than that."

# "Verdict: A", or "the better answer is answer A"; or what a reply that has neither begins with.
_SAID = re.compile(
    r"(?i:verdict|better(?: answer| one)? is)\W{1,6}(?i:answer\s+|a\s+(?=tie))?(A|B|(?i:tie))\b"
)
_BARE = re.compile(r"\A[\W_]*(?:[Aa]nswer\s+)?(A|B|(?i:tie))(?=\W*$|\s*[.,:;)\]*\n-]|\s+is\b)")


class Pair(NamedTuple):
    """Two models' answers to one prompt.

    Attributes:
      first, second: the models.
      row: the prompt's number.
    """

    first: str
    second: str
    row: int


class Judged(NamedTuple):
    """What a judge said of P pairs.

    Attributes:
      scores_P: float64: 1 where the first answer is better, 0 where the second is, 0.5 for a tie,
        NaN where there is no verdict.
      asked: verdicts of a model, two for every pair of different answers; 0 of a score.
      unreadable: how many of them no verdict could be read from; their pairs have none.
      disagreed: pairs that were judged differently in the other order, and so are ties.
    """

    scores_P: np.ndarray
    asked: int = 0
    unreadable: int = 0
    disagreed: int = 0

    @property
    def left_out(self) -> int:
        """Pairs without a verdict."""
        return int(np.isnan(self.scores_P).sum())

    @property
    def ties(self) -> int:
        """Pairs of equals."""
        return int((self.scores_P == 0.5).sum())

    def games(self, pairs: Sequence[Pair], about_N: Sequence[Hashable]) -> list[Game]:
        """The pairs with a verdict as games, about what their prompts are about."""
        return [
            Game(pair.first, pair.second, float(score), about_N[pair.row])
            for pair, score in zip(pairs, self.scores_P, strict=True)
            if not np.isnan(score)
        ]


def pairs_of(models: Sequence[str], rows: int) -> list[Pair]:
    """Every two models on every prompt."""
    both = itertools.combinations(models, 2)
    return [Pair(first, second, row) for first, second in both for row in range(rows)]


def by_scores(
    pairs: Sequence[Pair], scores: Mapping[str, ArrayLike], noticeable: float = 0.0
) -> Judged:
    """Judges by a number for every answer.

    Args:
      pairs: of answers.
      scores: {model: scores_N}; where one is NaN, its pairs have no verdict.
      noticeable: scores that lie closer together than this are a tie, as equal ones are.
    """
    scores = {name: np.asarray(one, np.float64) for name, one in scores.items()}
    gaps_P = np.array([scores[p.first][p.row] - scores[p.second][p.row] for p in pairs])
    ties_P = (np.abs(gaps_P) < noticeable) | (gaps_P == 0)
    found_P = np.where(ties_P, 0.5, (gaps_P > 0).astype(np.float64))
    return Judged(np.where(np.isnan(gaps_P), np.nan, found_P))


def reward_judge(
    folder: str,
) -> Callable[[Sequence[Sequence[Message]], Performance], np.ndarray]:
    """A reward model, whatever its tokenizer, as `(prompts_N, performance) -> scores_N`.

    Of the answers the first to each prompt is scored; one that does not fit the model is NaN.

    Raises:
      UserError: if there is no reward model in the folder.
    """
    score = text_scorer(reward_files(folder), load_params(folder))

    def scores(prompts_N: Sequence[Sequence[Message]], performance: Performance) -> np.ndarray:
        answers = zip(performance.texts_AN[0], performance.stopped_AN[0].tolist(), strict=True)
        rows = [({"prompt": p}, *answer) for p, answer in zip(prompts_N, answers, strict=True)]
        return np.concatenate([score(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)])

    return scores


def by_verdicts(
    pairs: Sequence[Pair],
    prompts_N: Sequence[Sequence[Message]],
    texts: Mapping[str, Sequence[str]],
    complete: Complete,
    rubric: str = RUBRIC,
    sampling: Sampling = Sampling(temperature=0.0, max_new_tokens=16),
) -> Judged:
    """Asks a model about every pair, in both orders.

    Args:
      pairs: of answers; two that are the same are a tie, and nobody is asked.
      prompts_N: what was answered.
      texts: {model: texts_N}.
      complete: the judge.
      rubric: what makes an answer better.
      sampling: of the verdicts.

    Raises:
      UserError: if none of the verdicts can be read.
    """
    answers = [(texts[p.first][p.row], texts[p.second][p.row]) for p in pairs]
    different = [k for k, (one, other) in enumerate(answers) if one.strip() != other.strip()]
    asked = []
    for k in different:
        prompt, (one, other) = prompts_N[pairs[k].row], answers[k]
        asked += [question(prompt, one, other, rubric), question(prompt, other, one, rubric)]
    replies = [one.text for one in complete(asked, sampling)] if asked else []
    said = [verdict(reply) for reply in replies]
    unreadable = said.count(None)
    if asked and unreadable == len(said):
        raise UserError(
            f"none of the judge's {len(said)} replies is a verdict (the first is "
            f"{replies[0][:80]!r}); give another --judge-model, or a clearer --rubric"
        )
    scores_P, disagreed = np.full(len(pairs), 0.5), 0
    for k, straight, swapped in zip(different, said[::2], said[1::2], strict=True):
        if straight is None or swapped is None:
            scores_P[k] = np.nan
        elif straight == 1.0 - swapped:
            scores_P[k] = straight
        else:
            disagreed += 1
    return Judged(scores_P, len(asked), unreadable, disagreed)


def question(prompt: Sequence[Message], one: str, other: str, rubric: str) -> str:
    """What a judge is asked: which of two answers to a conversation is better."""
    turns = "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in prompt)
    return (
        f"Compare two answers to a conversation.\n\nWhat counts: {rubric}\n\n"
        f"Conversation:\n{turns}\n\n"
        f"Answer A:\n{one.strip() or '(nothing)'}\n\nAnswer B:\n{other.strip() or '(nothing)'}\n\n"
        'Which answer is better by what counts? Reply "Verdict: A" or "Verdict: B", or "Verdict: '
        'tie" if neither is.'
    )


def verdict(reply: str) -> float | None:
    """1 if a reply is for A, 0 if it is for B, 0.5 for a tie; None if it is neither.

    The last "Verdict: ..." counts, for a judge may think first; a reply without one must begin with
    what it is for.
    """
    said = _SAID.findall(reply) or _BARE.findall(reply)
    return {"a": 1.0, "b": 0.0, "tie": 0.5}[said[-1].lower()] if said else None


def agreement(one: Judged, other: Judged, about_P: Sequence[Hashable]) -> dict[str, Any] | None:
    """How often two judges prefer the same answer, of the pairs that are no tie to either.

    Args:
      one, other: of the same pairs.
      about_P: what each pair's prompt is about, as for `mean_interval`.

    Returns:
      `pairs`, and `agree`, [share, low, high]; None without a pair.
    """
    decided_P = np.isin(one.scores_P, (0.0, 1.0)) & np.isin(other.scores_P, (0.0, 1.0))
    places = np.flatnonzero(decided_P)
    if not len(places):
        return None
    alike = (one.scores_P == other.scores_P)[places]
    return {
        "pairs": len(places),
        "agree": mean_interval(alike.astype(np.float64), [about_P[k] for k in places]),
    }
