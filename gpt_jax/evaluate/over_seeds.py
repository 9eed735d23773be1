"""The results of several seeds of a whole run as one, with intervals over the seeds.

Within a seed an interval says how sure a number is of that one model, on other prompts. Over seeds
it says how sure it is of the method: each seed's mean is one draw, and the interval is Student's
(`gpt_jax.seeds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpt_jax.seeds import interval

# Of each model in results.json: plain numbers within a seed, that have an interval over seeds.
MEASURED = ("kl_from_sft", "length", "entropy", "unknown", "wrong")


def over_seeds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `results.json` holds, of all seeds together.

    Args:
      results: of each seed, in order; models, kinds and parts that not all of them have are left
        to the seeds' own files.

    Returns:
      the same fields. Every [mean, low, high] is the mean of the seeds' means with its interval
      over them, a number their mean; seconds and counts of what was left out are summed; the
      samples, and what else is no number, are those of the first seed.
    """
    first = results[0]
    names = [model["name"] for model in first["models"]]
    found = _merge(results)
    found["models"] = [
        _model([model for one in results for model in one["models"] if model["name"] == name])
        for name in names
        if all(any(model["name"] == name for model in one["models"]) for one in results)
    ]
    left_out = {
        what: sum(e["count"] for one in results for e in one["left_out"] if e["what"] == what)
        for what in dict.fromkeys(e["what"] for one in results for e in one["left_out"])
    }
    seconds = {
        name: round(sum(one["seconds"].get(name, 0.0) for one in results), 1)
        for name in first["seconds"]
    }
    return found | {
        "seed": first["seed"],
        "seeds": len(results),
        "left_out": [{"what": what, "count": count} for what, count in left_out.items()],
        "seconds": seconds,
        "peak_memory_gb": max(one["peak_memory_gb"] for one in results),
        "machine": first["machine"],
        "samples": first["samples"],
    }


def _model(of_seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    measured = {
        name: [model[name] for model in of_seeds]
        for name in MEASURED
        if all(isinstance(model.get(name), float) for model in of_seeds)
    }
    return _merge(of_seeds) | {name: interval(values) for name, values in measured.items()}


def _merge(values: Sequence[Any]) -> Any:
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, Mapping):
        shared = [key for key in first if all(key in value for value in values)]
        return {key: _merge([value[key] for value in values]) for key in shared}
    if isinstance(first, list):
        is_interval = len(first) == 3 and isinstance(first[0], float)
        return interval([value[0] for value in values]) if is_interval else first
    if isinstance(first, bool | str):
        return first
    mean = float(np.mean(values))
    return round(mean) if isinstance(first, int) else mean
