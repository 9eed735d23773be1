"""Running a benchmark: every row's result is kept as it comes, so that a run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.evaluate.likelihood import Likelihood, loglikelihoods
from gpt_jax.evaluate.statistics import mean_interval
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.tasks.benchmark import Benchmark, Choice, Example, Writing

CHUNK = 64  # rows between two writings

Complete = Callable[[Sequence[str], Sampling], list]


def run(
    benchmark: Benchmark,
    rows: Sequence[dict],
    shots: Sequence[dict],
    model: TextModel,
    path: Path,
    tell: Callable[[int], None] = lambda done: None,
) -> dict:
    """Grades a model on rows, and goes on where an earlier run of the same was cut off.

    Args:
      benchmark: says what is asked and how it is graded.
      rows: to be answered.
      shots: that are shown with their answers.
      model: what is graded.
      path: of the JSON lines of every row's result.
      tell: is given the number of rows that are done.

    Returns:
      The metrics as [mean, low, high] with 95% intervals, `stderr` of each, and the number of rows.
    """
    found = _kept(path, len(rows))
    tell(len(found))
    with path.open("a", encoding="utf-8") as file:
        while len(found) < len(rows):
            some = rows[len(found) : len(found) + CHUNK]
            grade = _choose if isinstance(benchmark, Choice) else _write
            results = grade(benchmark, some, shots, model)
            file.writelines(json.dumps(one) + "\n" for one in results)
            file.flush()
            found += results
            tell(len(found))
    return summarise(benchmark, rows, found)


def _kept(path: Path, limit: int) -> list[dict]:
    """What is there already; a line that was cut off is taken away."""
    if not path.is_file():
        return []
    whole = path.read_bytes()
    lines = whole[: whole.rfind(b"\n") + 1].splitlines()[:limit]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove it to begin anew") from error


def _choose(
    benchmark: Choice, rows: Sequence[dict], shots: Sequence[dict], model: TextModel
) -> list[dict]:
    examples = [benchmark.example(row, shots) for row in rows]
    pairs = [(one.context, option) for one in examples for option in one.options]
    found = iter(loglikelihoods(model, pairs))
    return [_graded(one, [next(found) for _ in one.options]) for one in examples]


def _graded(example: Example, found: list[Likelihood]) -> dict:
    """What is kept of a row: the log-likelihoods, and what follows from them."""
    logprobs = [one.logprob for one in found]
    kept = {"logprobs": logprobs, "left_out": sum(one.left_out for one in found)}
    if len(found) == 1:
        return kept | {"acc": float(found[0].greedy)}
    # lm-evaluation-harness divides by characters, without the space in front.
    lengths = [len(option.removeprefix(" ")) for option in example.options]
    likeliest = int(np.argmax(logprobs))
    normed = int(np.argmax(np.array(logprobs) / lengths))
    return kept | {
        "acc": float(likeliest == example.gold),
        "acc_norm": float(normed == example.gold),
    }


def _write(
    benchmark: Writing, rows: Sequence[dict], shots: Sequence[dict], model: TextModel
) -> list[dict]:
    sampling = Sampling(
        max_new_tokens=benchmark.max_new_tokens,
        temperature=benchmark.temperature,
        stop=benchmark.stop,
        n=benchmark.samples,
    )
    model = model._replace(layout="document")  # a text is gone on with
    found = model.complete([benchmark.question(row, shots) for row in rows], sampling)
    each = [found[i : i + sampling.n] for i in range(0, len(found), sampling.n)]
    return [
        benchmark.grade(row, [one.text for one in some]) | {"texts": [one.text for one in some]}
        for row, some in zip(rows, each, strict=True)
    ]


def summarise(benchmark: Benchmark, rows: Sequence[dict], found: Sequence[dict]) -> dict:
    """All rows together, and every group apart."""
    if not found:
        raise UserError(f"{benchmark.name} has no row; give another file or a larger --limit")
    ids = [benchmark.cluster(row) for row in rows] if benchmark.cluster else None
    names = [name for name, value in found[0].items() if isinstance(value, float)]
    values = {name: np.array([one[name] for one in found]) for name in names}
    result = {"rows": len(found)}
    for name, values_N in values.items():
        result[name] = mean_interval(values_N, ids)
        result[f"{name}_stderr"] = float(values_N.std(ddof=1) / math.sqrt(len(found)))
    if cut := sum(one.get("left_out", 0) for one in found):
        result["tokens_left_out"] = cut
    if benchmark.name == "lambada":
        result["perplexity"] = math.exp(-np.mean([one["logprobs"][0] for one in found]))
    if benchmark.group:
        groups = np.array([benchmark.group(row) for row in rows])
        name = names[0]
        result["groups"] = {
            str(group): [int((groups == group).sum()), float(values[name][groups == group].mean())]
            for group in np.unique(groups)
        }
    return result
