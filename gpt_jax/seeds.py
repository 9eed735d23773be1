"""Runs of many seeds: where each of them lies, and what they come to together.

    runs/x/                config.json (with its `seeds`), metrics.jsonl, report.html
    runs/x/seeds/0/        of every seed a run folder, as if the seed had been run alone

In the `metrics.jsonl` of the whole a metric NAME is the mean over the seeds, and NAME/ci95 the half
width of its 95% interval; the single values stand in the `metrics.jsonl` of the seeds. With n seeds
of mean m and standard deviation s (of n - 1) the interval is m +- t s / sqrt(n), where t is the
97.5% quantile of Student's distribution with n - 1 degrees of freedom (Student 1908).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from gpt_jax.errors import UserError

FOLDER = "seeds"
WIDTH = "/ci95"  # behind the name of a metric: half the width of its interval


def folder_of(folder: str | Path, seed: int) -> Path:
    """The run folder of one seed."""
    return Path(folder) / FOLDER / str(seed)


def seeds_in(folder: str | Path) -> list[int]:
    """The seeds that a folder holds, in order; [] if it is not one of many seeds."""
    found = (Path(folder) / FOLDER).glob("*")
    return sorted(int(path.name) for path in found if path.name.isdecimal())


def one_of(folder: str | Path, seed: int) -> Path:
    """The run folder of a seed in a folder of many.

    Raises:
      UserError: if it is not among them.
    """
    there = seeds_in(folder)
    if seed not in there:
        raise UserError(
            f"{folder} has the seeds {in_words(there)}, and not {seed}; run its stage with as "
            f"many, or give one of them, such as {folder_of(folder, there[0])}"
        )
    return folder_of(folder, seed)


def refuse_many(folder: str | Path) -> None:
    """Raises a UserError if a folder holds many seeds, where one model is needed."""
    if there := seeds_in(folder):
        raise UserError(
            f"{folder} holds the models of the seeds {in_words(there)}; give one of them, such as "
            f"{folder_of(folder, there[0])}"
        )


def in_words(seeds: Sequence[int]) -> str:
    """Writes 0, 1, 2 as "0 to 2"."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def mean_and_width(values_S: ArrayLike) -> tuple[float, float]:
    """The mean over seeds, and half the width of its 95% interval (see the top of this file).

    Returns:
      mean, half width: NaN if a value is NaN, the width also of a single seed or infinite values.
    """
    from scipy.special import stdtrit

    values_S = np.asarray(values_S, np.float64)
    n = len(values_S)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(values_S.mean())
        if n < 2 or not math.isfinite(mean):
            return mean, math.nan
        return mean, float(stdtrit(n - 1, 0.975) * values_S.std(ddof=1) / math.sqrt(n))


def interval(values_S: ArrayLike) -> list[float | None]:
    """[mean, low, high], as results have it; low and high are None where they are not known."""
    mean, width = mean_and_width(values_S)
    return [mean, mean - width, mean + width] if math.isfinite(width) else [mean, None, None]


def together(values: Mapping[str, ArrayLike]) -> dict[str, float]:
    """A row of metrics of the whole.

    Args:
      values: by name: one value for each seed, (S,), or a number that is the same for all.
    """
    row = {}
    for name, value in values.items():
        row[name], row[name + WIDTH] = mean_and_width(value) if np.ndim(value) else (value, 0.0)
    return row


def of_seed(values: Mapping[str, ArrayLike], place: int) -> dict[str, float]:
    """What the seed at this place has of the values that `together` takes."""
    return {
        name: float(np.asarray(value)[place] if np.ndim(value) else value)
        for name, value in values.items()
    }


def merge(rows_of: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """The rows of the whole, from those of every seed, as `read_metrics` gives them.

    What not every seed has written at a step is left to the seeds' own files.
    """

    def kinds(rows: Sequence[Mapping[str, float]]) -> dict[tuple[float, bool], dict[str, float]]:
        """Training and evaluation write rows of their own at one step."""
        found: dict[tuple[float, bool], dict[str, float]] = {}
        for row in rows:
            step = row["step"]
            for name, value in row.items():
                if name != "step":
                    found.setdefault((step, name.startswith("eval/")), {})[name] = value
        return found

    first, *others = map(kinds, rows_of)
    merged = []
    for key, row in sorted(first.items()):
        if all(key in other for other in others):
            names = [name for name in row if all(name in other[key] for other in others)]
            values = {name: [row[name], *(o[key][name] for o in others)] for name in names}
            merged.append({"step": key[0]} | together(values))
    return merged
