"""Rewards: `reward(rollout) -> scores_B`, float32, be it a model, a rule, a verifier or a sum.

A `DeviceReward` is a pure JAX function with parameters, which travel as arguments, so that the
whole iteration is one program. A `HostReward` is any Python function, called between the program
that samples and the program that learns; it sees the record a prompt was made from, and text.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pad_comparisons
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout
from gpt_jax.models.contract import Model
from gpt_jax.models.heads import score_completions
from gpt_jax.rl.workers import SECONDS, Failure, Row, Rule, ask_here, checked
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.checkpoint import ModelFiles


class DeviceReward(NamedTuple):
    """A reward that is compiled with the rest.

    Attributes:
      score: pure, `(params, rollout) -> scores_B` float32.
      params: its parameters, a tree of arrays; they get no gradient.
    """

    score: Callable[[Any, Rollout], jax.Array]
    params: Any = ()

    def __call__(self, rollout: Rollout) -> jax.Array:
        return self.scores(self.params, rollout)

    def scores(self, params: Any, rollout: Rollout) -> jax.Array:
        """`score`, float32 (B,).

        Raises:
          UserError: if it does not give one number for every completion.
        """
        scores_B = jnp.asarray(self.score(params, rollout))
        if scores_B.shape != rollout.stopped_B.shape:
            raise UserError(
                f"the reward gave scores of shape {scores_B.shape} for {len(rollout.stopped_B)} "
                "completions; it must give one number for each"
            )
        return scores_B.astype(jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class HostReward:
    """A reward in Python.

    Attributes:
      score: `rollout -> scores`, a number for every row of a Rollout of NumPy arrays. A score that
        is None, a `Failure` or not finite leaves its row out of the iteration.
      name: what to call it when it goes wrong.
    """

    score: Callable[[Rollout], Sequence[float | Failure | None]]
    name: str = "function"
    _said: set[str] = dataclasses.field(default_factory=set, init=False, repr=False)

    def __call__(self, rollout: Rollout) -> np.ndarray:
        """Scores, float32 (B,), NaN where the row is to be left out.

        Raises:
          UserError: naming the reward, if it raises or does not give one number per row.
        """
        try:
            found = self.score(rollout)
            # A mapping would give its keys, a string its letters, a column rows of one.
            if isinstance(found, Mapping | Set | str | bytes) or getattr(found, "ndim", 1) != 1:
                raise TypeError("it gave no list of numbers")
            given = list(found)
        except UserError:
            raise
        except Exception as error:  # it is the user's own code: whatever it raises is the message
            raise UserError(
                f"the reward {self.name} failed: {type(error).__name__}: {error}; mend it and run "
                "the same command again"
            ) from error
        rows = len(rollout.stopped_B)
        if len(given) != rows:
            raise UserError(
                f"the reward {self.name} gave {len(given)} scores for {rows} completions; it must "
                "give one number for each"
            )
        return settled(self.name, given, rollout.rows_B, self._said)


def settled(name: str, given: Sequence[Any], rows_B: np.ndarray, said: set[str]) -> np.ndarray:
    """What a reward gave as float32 scores, NaN for a row that it left without one; the first of
    these is said, all are counted (`val/dropped_rows`).

    Args:
      name: of the reward.
      given: numbers, or whatever is none.
      rows_B: the records that the prompts were made from.
      said: the names of the rewards of which a row has been named in this run.
    """
    scores = [checked(score) for score in given]
    failed = {row: score.why for row, score in enumerate(scores) if isinstance(score, Failure)}
    if failed and name not in said:
        said.add(name)
        first = min(failed)
        print(
            f"the reward {name} {failed[first]} for the prompt of row {int(rows_B[first])}: this "
            "completion is left out, as all such are (val/dropped_rows counts them)",
            file=sys.stderr,
        )
    return np.array([np.nan if row in failed else scores[row] for row in range(len(scores))], "f4")


def refuse_none(name: str, given: Sequence[Any]) -> None:
    """Raises a UserError if a rule gave no row of an iteration a score."""
    failed = [score for score in map(checked, given) if isinstance(score, Failure)]
    if len(failed) == len(given):
        raise UserError(
            f"the reward {name} gave none of the {len(given)} completions of an iteration a score "
            f"(of the first it {failed[0].why}); mend it and run the same command again"
        )


Reward = DeviceReward | HostReward


def model_score(model: Model) -> Callable[[dict, Rollout], jax.Array]:
    """The score of a reward model of this shape, which reads the policy's tokens."""
    return lambda scorer, rollout: score_completions(
        model, scorer, rollout.tokens_BT, rollout.mask_BT
    )


def model_reward(model: Model, scorer: dict) -> DeviceReward:
    """A trained reward model."""
    return DeviceReward(model_score(model), scorer)


def record_reward(
    rule: Rule, records: Sequence[dict], tokenizer: Tokenizer, seconds: float = SECONDS
) -> HostReward:
    """A Python function of (record, text, stopped) as a reward, asked in this process.

    Args:
      rule: sees the record that the prompt was made from, whole, and the completion's text. What it
        raises, or a row that takes too long, leaves that row out.
      records: of all prompts, by their row numbers.
      tokenizer: of the policy.
      seconds: the most that a row may take.
    """
    name = getattr(rule, "__name__", repr(rule))

    def score(rollout: Rollout) -> list[float | Failure]:
        given = ask_here(rule, rows_of(rollout, records, tokenizer), seconds)
        refuse_none(name, given)
        return given

    return HostReward(score, name)


def retokenized_reward(
    judge: ModelFiles, scorer: dict, records: Sequence[dict], tokenizer: Tokenizer
) -> HostReward:
    """A reward model with a tokenizer of its own, which is given the text of what was sampled.

    Args:
      judge: its shape and its tokenizer.
      scorer: its parameters.
      records: of all prompts, by their row numbers.
      tokenizer: of the policy.
    """
    score_texts = text_scorer(judge, scorer)
    # What does not fit has no score, and HostReward says which row that is.
    return HostReward(
        lambda rollout: score_texts(rows_of(rollout, records, tokenizer)), "of another tokenizer"
    )


def text_scorer(judge: ModelFiles, scorer: dict) -> Callable[[Sequence[Row]], np.ndarray]:
    """A reward model as a function of text: rows -> scores_B, float32.

    Args:
      judge: its shape and its tokenizer.
      scorer: its parameters.

    Returns:
      `rows -> scores_B` of (record, completion, stopped) rows; NaN where one does not fit.
    """
    longest = judge.model.context_length - ("readout" in scorer["head"])
    score_rows = jax.jit(functools.partial(score_completions, judge.model, scorer))

    def score(given: Sequence[Row]) -> np.ndarray:
        rows = [
            {"prompt": record["prompt"], "completions": [text], "stopped": [stopped], "ranks": [0]}
            for record, text, stopped in given
        ]
        batch = pad_comparisons(rows, judge.tokenizer, longest, LeftOut())
        only = jax.tree.map(lambda x: x[:, 0], (batch.tokens_BKT, batch.weights_BKT))
        return np.where(batch.ranks_BK[:, 0] >= 0, np.asarray(score_rows(*only)), np.nan)

    return score


def rows_of(rollout: Rollout, records: Sequence[dict], tokenizer: Tokenizer) -> list[Row]:
    """(record, completion, stopped) of every row of a rollout of NumPy arrays."""
    texts = completion_texts(rollout, tokenizer)
    return [
        (records[row], text, stopped)
        for row, text, stopped in zip(
            rollout.rows_B.tolist(), texts, rollout.stopped_B.tolist(), strict=True
        )
    ]


def completion_texts(rollout: Rollout, tokenizer: Tokenizer) -> list[str]:
    """The completions of a rollout of NumPy arrays as text, padding removed."""
    ids_BC, segment_ids_BC = rollout.completion_BC.ids, rollout.completion_BC.segment_ids
    return [
        chat.read(ids[segment_ids > 0].tolist(), tokenizer)
        for ids, segment_ids in zip(ids_BC, segment_ids_BC, strict=True)
    ]


def token_rewards(
    scores_B: jax.Array, kl_BC: jax.Array, mask_BC: jax.Array, kl_coef: jax.Array
) -> jax.Array:
    """-kl_coef * KL at every token, plus the score at the last (Ouyang et al. 2022, eq. 2).

    Everything is float32: a score of 0.7 stays 0.7. A row without a token gets nothing.
    """
    last_B = jnp.sum(mask_BC, axis=1).astype(jnp.int32) - 1
    at_last_BC = jax.nn.one_hot(last_B, mask_BC.shape[1], dtype=jnp.float32)
    return -kl_coef * kl_BC * mask_BC + scores_B.astype(jnp.float32)[:, None] * at_last_BC
