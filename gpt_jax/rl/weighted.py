"""A reward that is a weighted sum: of models on the device, of rules on the host, of both.

Where every part is on the device the sum is traced into the iteration's one program. Else the host
asks its rules while the devices score, between the program that samples and the one that learns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.generate.sampler import Rollout
from gpt_jax.losses.lm import Metrics
from gpt_jax.models.lora import attached
from gpt_jax.parallel import distributed
from gpt_jax.rl.reward_spec import Term
from gpt_jax.rl.rewards import DeviceReward, HostReward, Row, refuse_none, rows_of, settled
from gpt_jax.rl.workers import RuleProcess
from gpt_jax.text.tokenizer import Tokenizer

Score = Callable[[Any, Rollout], jax.Array]


class HostParts(NamedTuple):
    """The parts of a reward that are asked on the host.

    Attributes:
      rules: the names of those that see one row at a time, in the order of `ask`'s numbers.
      ask: gives the scores of (number of a rule, record, text, stopped).
      rewards: functions of whole rollouts, by name.
      records: of all prompts, by their row numbers.
      tokenizer: of the policy.
      said: the names of those of which a failure has been said.
    """

    rules: tuple[str, ...]
    ask: RuleProcess
    rewards: dict[str, HostReward]
    records: Sequence[dict]
    tokenizer: Tokenizer
    said: set[str]

    def __call__(self, rollout: Rollout) -> np.ndarray:
        """The scores of every part, float32 (parts, B), NaN where a row has none.

        Raises:
          UserError: if a rule has none for any row.
        """
        rows = rows_of(rollout, self.records, self.tokenizer) if self.rules else []
        given = self.ask(_numbered(len(self.rules), rows)) if self.rules else []
        found = []
        for number, name in enumerate(self.rules):
            scores = given[number * len(rows) :][: len(rows)]
            refuse_none(name, scores)
            found.append(settled(name, scores, rollout.rows_B, self.said))
        return np.stack(found + [reward(rollout) for reward in self.rewards.values()])

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parts, as they are scored."""
        return (*self.rules, *self.rewards)


def _numbered(rules: int, rows: Sequence[Row]) -> list[tuple[int, dict, str, bool]]:
    return [(number, *row) for number in range(rules) for row in rows]


class Weighted(NamedTuple):
    """A weighted sum as a reward.

    Attributes:
      terms: of the sum, each of one part or of several.
      models: by name, what scores on the device; the parameters of the n-th are `params[str(n)]`.
      host: the other parts; None: there are none.
    """

    terms: tuple[Term, ...]
    models: dict[str, Score]
    host: HostParts | None = None

    def parts(self, params: dict, rollout: Rollout) -> dict[str, jax.Array]:
        """Scores (B,) of the models, by their names; pure."""
        return {
            name: DeviceReward(score).scores(params[str(n)], rollout)
            for n, (name, score) in enumerate(self.models.items())
        }

    def total(self, parts: dict[str, Any], xp: Any = jnp) -> tuple[Any, Metrics]:
        """The sum over the terms, float32 (B,), NaN for a row that a part has no score of; and the
        mean of every term, not weighed, over the rows that have one.

        Args:
          parts: scores by the text of an atom.
          xp: `jax.numpy` or `numpy`, as they are arrays of one or the other.
        """
        total, metrics = xp.float32(0), {}
        for term in self.terms:
            term_B = _folded(term, [parts[atom.text] for atom in term.atoms], xp)
            total = total + xp.float32(term.weight) * term_B
            known_B = xp.isfinite(term_B)
            pair = (xp.sum(xp.where(known_B, term_B, 0.0)), xp.sum(known_B))
            metrics[f"objective/scores/{term.text}"] = pair
        return total, metrics


def _folded(term: Term, parts: list[Any], xp: Any) -> Any:
    if term.fold is None:
        return parts[0]
    parts_KB = xp.stack(parts)
    if term.fold == "variance":  # of these K members, not of those they might be drawn from
        return xp.mean((parts_KB - xp.mean(parts_KB, axis=0)) ** 2, axis=0)
    return {"min": xp.min, "mean": xp.mean}[term.fold](parts_KB, axis=0)


def on_device(reward: Any) -> bool:
    """Whether a reward can be traced into one program with the rest."""
    return isinstance(reward, DeviceReward) or (
        isinstance(reward, Weighted) and reward.host is None
    )


def traced_scores(
    reward: DeviceReward | Weighted, params: Any, rollout: Rollout
) -> tuple[jax.Array, Metrics]:
    """Scores float32 (B,) of a reward on the device, and the means of its terms; pure."""
    if isinstance(reward, Weighted):
        return reward.total(reward.parts(params, rollout))
    return reward.scores(params, rollout), {}


def host_scores(
    reward: HostReward | Weighted, fetched: Callable[[dict], dict]
) -> Callable[[dict, Rollout], tuple[np.ndarray, Metrics]]:
    """`(frozen, rollout) -> (scores_B, metrics)`, NumPy arrays, of a reward that is not.

    Args:
      reward: on the host, in part at least.
      fetched: `frozen -> frozen` on the device.
    """
    if isinstance(reward, HostReward):
        # On many hosts every process scores all rows: a host reward has no idea of a mesh.
        return lambda frozen, rollout: (reward(distributed.fetch(rollout)), {})

    @jax.jit
    def parts(frozen: dict, rollout: Rollout) -> dict[str, jax.Array]:
        frozen = fetched(frozen)
        return reward.parts(attached(frozen["reward"], frozen), rollout)

    def scores(frozen: dict, rollout: Rollout) -> tuple[np.ndarray, Metrics]:
        on_devices = parts(frozen, rollout)  # which score while the host asks
        asked = distributed.from_main(
            lambda rollout=distributed.fetch(rollout): reward.host(rollout),
            (len(reward.host.names), len(rollout.stopped_B)),
        )
        found = distributed.fetch(on_devices) | dict(zip(reward.host.names, asked, strict=True))
        return reward.total(found, np)

    return scores
