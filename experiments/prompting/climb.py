"""Rungs of the ladder: strategies with what they are asked, how they do, and how they compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.evaluate.statistics import mean_interval, paired_difference
from gpt_jax.generate.text import Complete
from gpt_jax.prompting.strategy import Steps, answer_all

Expected = Sequence[tuple[str, str, str]]  # (task, what does worse, what does better)


class Rung(NamedTuple):
    """A strategy and what it is asked.

    Attributes:
      task, name: of the questions, and of the strategy.
      strategy: begins the steps of a problem.
      asked: the problems.
      right: `(problem, answer) -> whether it is right`; the answer may be None.
      complete: answers, where it is not the model's own.
    """

    task: str
    name: str
    strategy: Callable[[Any], Steps]
    asked: Sequence[Any]
    right: Callable[[Any, Any], bool]
    complete: Complete | None = None


def climb(complete: Complete, rung: Rung) -> dict:
    """What one strategy comes to: whether each answer is right, and what they cost."""
    found = answer_all(rung.complete or complete, rung.strategy, rung.asked)
    pairs = zip(rung.asked, found, strict=True)
    return {
        "task": rung.task,
        "strategy": rung.name,
        "scores": [float(rung.right(one, result.answer)) for one, result in pairs],
        "read": float(np.mean([one.read for one in found])),
        "written": float(np.mean([one.written for one in found])),
        "calls": float(np.mean([one.calls for one in found])),
        "samples": [str(one.answer) for one in found[:3]],
    }


def summarise(seeds: Mapping[int, Sequence[dict]], expected: Expected) -> dict:
    """The table of one or several seeds, and which of the expected orderings were found.

    An ordering is shown if the 95% interval of the paired difference, over the questions of all
    seeds, is above 0, and so is the difference of every seed.

    Args:
      seeds: what `climb` gave, for every seed.
      expected: the orderings.
    """
    each = list(zip(*seeds.values(), strict=True))  # rungs, each of all seeds

    def scores(rung: Sequence[dict]) -> np.ndarray:
        return np.concatenate([one["scores"] for one in rung])

    table = [
        {
            "course": rung[0]["course"],
            "task": rung[0]["task"],
            "strategy": rung[0]["strategy"],
            "right": mean_interval(scores(rung)),
            "by_seed": [float(np.mean(one["scores"])) for one in rung],
            "questions": len(scores(rung)),
            **{
                name: float(np.mean([one[name] for one in rung]))
                for name in ("read", "written", "calls")
            },
        }
        for rung in each
    ]
    by_name = {(rung[0]["task"], rung[0]["strategy"]): rung for rung in each}
    orderings = []
    for task, worse, better in expected:
        low, high = by_name[task, worse], by_name[task, better]
        difference = paired_difference(scores(high), scores(low))
        by_seed = [
            float(np.mean(a["scores"]) - np.mean(b["scores"]))
            for a, b in zip(high, low, strict=True)
        ]
        shown = (difference[1] or 0.0) > 0.0 and min(by_seed) > 0.0
        orderings.append(
            {"task": task, "worse": worse, "better": better, "difference": difference}
            | {"by_seed": by_seed, "shown": shown}
        )
    return {"seeds": list(seeds), "rungs": table, "orderings": orderings}
