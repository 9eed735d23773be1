"""Several ways to train models of several sizes: a table, sentences and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_jax.report.panels import Curve, Panel, draw
from gpt_jax.report.reproduction import FIGURE, write_results
from gpt_jax.report.table import Table, interval_text, plain

PANELS = {
    "win_rate": "Win rate against the largest SFT model",
    "text_loss": "Loss on held-out text (nats per token)",
    "distinct": "Different answers to one prompt (share)",
}


def publish_sizes(folder: str | Path, results: Mapping[str, Any]) -> None:
    """Writes the figure, the table and the numbers of a run, and prints them.

    Args:
      folder: of the run.
      results: with the `sizes`, {size: {model: {metric: number or [mean, low, high]}}}.
    """
    sizes = results["sizes"]
    said = [sentence for size, models in sizes.items() for sentence in sentences(size, models)]
    draw(Path(folder) / FIGURE, panels(sizes), "Models of several sizes, after each stage")
    write_results(folder, dict(results) | {"said": said}, [table(sizes)], said)


def table(sizes: Mapping[str, Mapping]) -> Table:
    """A row for each model of each size."""
    rows = []
    for size, models in sizes.items():
        for name, one in models.items():
            cells = [f"{size} {name}"]
            for metric, digits, scale, unit in (
                ("win_rate", 0, 100, "%"),
                ("gold", 2, 1, ""),
                ("right", 0, 100, "%"),
                ("text_loss", 3, 1, ""),
                ("entropy", 2, 1, ""),
                ("distinct", 0, 100, "%"),
            ):
                found = _interval(one.get(metric))
                cells.append("–" if found is None else interval_text(found, scale, digits, unit))
            rows.append(cells)
    headings = ["model", "win rate", "gold score", "right", "text loss", "entropy", "different"]
    note = (
        "brackets: 95% interval; win rate against fresh answers of the largest SFT model; text "
        "loss on held-out pretraining text and entropy in nats per token; different: answers to "
        "one prompt"
    )
    return plain(headings, rows, "", note)


def sentences(size: str, models: Mapping[str, Mapping]) -> list[str]:
    """Whether each stage wins more than the one before, and what PPO-ptx keeps of the text."""
    names, said = list(models), []
    for before, name in zip(names, names[1:], strict=False):
        ours, theirs = (_interval(models[n]["win_rate"]) for n in (name, before))
        apart = None not in (*ours, *theirs) and (ours[1] > theirs[2] or theirs[1] > ours[2])
        order = "more" if ours[0] > theirs[0] else "less"
        how = f"wins {order} than {before}" if apart else f"cannot be told from {before}"
        said.append(f"{size}: {name} {how} ({100 * ours[0]:.0f}% and {100 * theirs[0]:.0f}%)")
    lost = {
        name: _interval(models[name]["text_loss"])[0] - _interval(models["SFT"]["text_loss"])[0]
        for name in ("PPO", "PPO-ptx")
    }
    said.append(
        f"{size}: from SFT on the loss on text changes by {lost['PPO']:+.3f} with PPO and by "
        f"{lost['PPO-ptx']:+.3f} with PPO-ptx"
    )
    return said


def panels(sizes: Mapping[str, Mapping]) -> list[Panel]:
    """Each metric over the parameters, a line for each way to train."""
    names = list(next(iter(sizes.values())))
    found = []
    for metric, title in PANELS.items():
        curves = []
        for name in names:
            some = [models[name] for models in sizes.values() if metric in models[name]]
            if some:
                x = [_interval(one["parameters"]) for one in some]
                curves.append(Curve(name, x, [_interval(one[metric]) for one in some]))
        found.append(Panel(title, "parameters", "", curves, log=True))
    return found


def _interval(value: Any) -> list | None:
    return value if isinstance(value, list) or value is None else [value, None, None]
