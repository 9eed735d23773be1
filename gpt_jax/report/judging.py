"""Generator and judge of every size: tables, sentences and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_jax.report.panels import Curve, Panel, draw
from gpt_jax.report.reproduction import FIGURE, write_results
from gpt_jax.report.table import Table, interval_text, plain

CHANCE = 0.5


def publish_judging(folder: str | Path, results: Mapping[str, Any]) -> None:
    """Writes the figure, the tables and the numbers of a run, and prints them.

    Args:
      folder: of the run.
      results: with the `sizes`, each as `evaluate.judging` has it.
    """
    sizes = results["sizes"]
    said = [sentence for size, one in sizes.items() for sentence in sentences(size, one)]
    draw(Path(folder) / FIGURE, panels(sizes), "One model as generator and as judge")
    write_results(folder, dict(results) | {"said": said}, [accuracies(sizes), chosen(sizes)], said)


def accuracies(sizes: Mapping[str, Mapping]) -> Table:
    """How often each size is right, and its judges are."""
    rows = [
        [f"{size} ({one['parameters'] / 1e6:.2f}M)"]
        + [_percent(one[name]) for name in ("generator", "taught")]
        + [_percent(one["judges"][name]) for name in ("reward model", "likelihood")]
        + [f"{one['pairs']:,.0f}"]
        for size, one in sizes.items()
    ]
    headings = ["size", "generator", "taught", "judge: reward model", "judge: likelihood", "pairs"]
    note = (
        "right answers to held-out prompts of the finetuned model, and of it finetuned on the best "
        "of the labeled answers; pairs of a right and a wrong answer ranked right (chance: 50%)"
    )
    return plain(headings, rows, "", note)


def chosen(sizes: Mapping[str, Mapping]) -> Table:
    """What best-of-n of each size comes to, by each judge."""
    counts = [str(n) for n in next(iter(sizes.values()))["best_of"]["perfect"]]
    rows = []
    for size, one in sizes.items():
        for name, values in one["best_of"].items():
            by_count = {str(n): value for n, value in values.items()}
            rows.append([f"{size}, {name}", *(_percent(by_count[n]) for n in counts)])
    headings = ["judge", *(f"best of {n}" for n in counts)]
    return plain(headings, rows, "", "right answers among those that the judge chooses")


def _percent(interval: Any) -> str:
    return "–" if interval is None else interval_text(interval, 100, 0, "%")


def sentences(size: str, one: Mapping) -> list[str]:
    """What can be said of a size: whether the judge is right more often than the generator, by how
    much it is above chance, and whether the labels gain more on it."""
    said = []
    generator, judge = one["generator"], one["judges"]["reward model"]
    if judge is None:
        return [f"{size}: there is no pair of a right and a wrong answer to judge"]
    apart = None not in (*judge, *generator) and (
        judge[1] > generator[2] or generator[1] > judge[2]
    )
    words = "more often than" if judge[0] > generator[0] else "less often than"
    said.append(
        f"{size}: the judge is right in {_percent(judge)} of the pairs, the generator in "
        f"{_percent(generator)}: "
        + (f"{words} it, outside the intervals" if apart else "the intervals overlap")
    )
    if one["taught"] is None:
        return said
    values = {int(n): value for n, value in one["best_of"]["reward model"].items()}
    most, taught = max(values), one["taught"]
    best = values[most]
    apart = None not in (*best, *taught) and (best[1] > taught[2] or taught[1] > best[2])
    said.append(
        f"{size}: the labels spent on a judge make {_percent(best)} of best-of-{most}'s answers "
        f"right, spent on the generator {_percent(taught)}"
        + ("" if apart else "; the intervals overlap")
    )
    return said


def panels(sizes: Mapping[str, Mapping]) -> list[Panel]:
    """Accuracy over the parameters; what best-of-n gains over n; and by which judge."""
    parameters = [[one["parameters"], None, None] for one in sizes.values()]
    lines = {
        "generator": [one["generator"] for one in sizes.values()],
        "taught": [one["taught"] for one in sizes.values()],
        "judge: reward model": [one["judges"]["reward model"] for one in sizes.values()],
        "judge: likelihood": [one["judges"]["likelihood"] for one in sizes.values()],
    }
    accuracy = []
    for label, values in lines.items():
        kept = [n for n, value in enumerate(values) if value is not None]
        accuracy.append(Curve(label, [parameters[n] for n in kept], [values[n] for n in kept]))
    gains = [
        Curve(
            size,
            [[int(n), None, None] for n in one["gain"]["reward model"]],
            list(one["gain"]["reward model"].values()),
        )
        for size, one in sizes.items()
    ]
    return [
        Panel("Answers, and pairs, that are right", "parameters", "share", accuracy, log=True),
        Panel(
            "What best-of-n gains by the reward model",
            "n",
            "share of right answers",
            gains,
            log=True,
        ),
    ]
