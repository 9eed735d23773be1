"""The ladder's tables and figures: how often each way of prompting is right, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import rich

from gpt_jax import files
from gpt_jax.report import plots
from gpt_jax.report.style import BLUE, GREY
from gpt_jax.report.table import Table, for_terminal, interval_text, plain, to_markdown


def write(folder: Path, results: Mapping) -> None:
    """Writes `results.json`, `ladder.md` and a `ladder-COURSE.svg` each, and prints the tables.

    Args:
      folder: of the run.
      results: of experiments.prompting.ladder.
    """
    files.write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    files.write_text(folder / "ladder.md", markdown(results))
    for course in courses(results):
        files.write_text(folder / f"ladder-{course}.svg", figure(results, course) + "\n")
        rich.print(for_terminal([strategies(results, course)]))
    for one in results["orderings"]:
        print(sentence(one))


def courses(results: Mapping) -> list[str]:
    """Those that were taken, in their order."""
    return list(dict.fromkeys(one["course"] for one in results["rungs"]))


def strategies(results: Mapping, course: str) -> Table:
    """A row for every strategy of a course."""
    rows = [
        [
            f"{one['task']}: {one['strategy']}",
            interval_text(one["right"], 100, 1),
            ", ".join(f"{100 * value:.1f}" for value in one["by_seed"]),
            f"{one['read']:.0f}",
            f"{one['written']:.0f}",
        ]
        for one in results["rungs"]
        if one["course"] == course
    ]
    seeds = ", ".join(map(str, results["seeds"]))
    headings = ["", "right, % [95%]", f"by seed ({seeds})", "tokens read", "written"]
    return plain(headings, rows, f"Ways of prompting: {course}")


def sentence(ordering: Mapping) -> str:
    """What came of one expected ordering."""
    by_seed = ", ".join(f"{100 * value:+.1f}" for value in ordering["by_seed"])
    verdict = "shown" if ordering["shown"] else "not shown"
    return (
        f"{ordering['task']}: {ordering['better']} over {ordering['worse']}: {verdict}, "
        f"{interval_text(ordering['difference'], 100, 1)} points (by seed {by_seed})"
    )


def markdown(results: Mapping) -> str:
    """Command, and for every course its table and its orderings."""
    asked, seeds = results["rungs"][0]["questions"], len(results["seeds"])
    many = "one seed" if seeds == 1 else f"{seeds} seeds"
    parts = [
        f"`{results['command']}`\n\n"
        f"{asked:,} held-out questions to each strategy, {many}; tokens are of one answer.\n"
    ]
    for course in courses(results):
        tasks = {one["task"] for one in results["rungs"] if one["course"] == course}
        lines = (f"- {sentence(one)}\n" for one in results["orderings"] if one["task"] in tasks)
        parts.append(
            f"## {course.capitalize()}\n\n{to_markdown(strategies(results, course))}\n"
            f"What was expected, and what came of it:\n\n{''.join(lines)}"
        )
    return "\n".join(parts)


@plots.styled
def figure(results: Mapping, course: str) -> str:
    """The share of right answers of every strategy with its 95% interval, task by task."""
    rungs = [one for one in results["rungs"] if one["course"] == course]
    tasks = list(dict.fromkeys(one["task"] for one in rungs))
    drawing, axes = plots.new_figure((6.6, 0.8 + 0.27 * (len(rungs) + len(tasks))))
    place, ticks, names = 0, [], []
    for task in tasks:
        axes.annotate(task, (0, place), (2, 0), textcoords="offset points", va="center",
                      weight="bold", fontsize=9)  # fmt: skip
        for one in (rung for rung in rungs if rung["task"] == task):
            place += 1
            mean, low, high = one["right"]
            axes.barh(place, mean, height=0.62, color=BLUE if mean else GREY)
            if low is not None:
                axes.plot([low, high], [place, place], color=plots.INK, linewidth=1.2)
            cost = f"{100 * mean:.0f}%, {one['read'] + one['written']:.0f} tokens"
            axes.annotate(cost, (max(mean, high or 0.0), place), (5, 0), va="center", fontsize=8,
                          textcoords="offset points")  # fmt: skip
            ticks.append(place)
            names.append(one["strategy"])
        place += 1
    axes.set_yticks(ticks, names)
    axes.set_ylim(place - 0.5, -0.6)
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(False, axis="y")
    axes.set_xlabel("right answers to held-out questions (fraction), and tokens of an answer")
    return plots.to_svg(drawing, "Right answers of every way of prompting, with 95% intervals")
