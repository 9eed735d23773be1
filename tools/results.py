"""The README's tables of several runs of the whole recipe that differ in their seed alone.

    python -m tools.results runs/rlhf/seed0 runs/rlhf/seed1 runs/rlhf/seed2

reads `results.json` and `config.json` of every run folder, and writes Markdown to standard output:
the models of the first run, a row for every run, what is answered right by kind of question, and
the machine and the commands.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from gpt_jax import terminal
from gpt_jax.errors import UserError
from gpt_jax.files import read_json
from gpt_jax.machine import in_words
from gpt_jax.report.table import (
    Table,
    interval_text,
    models_table,
    number_text,
    plain,
    score_name,
    to_markdown,
)
from gpt_jax.train.record import differences

MODELS = ("base", "SFT", "PPO")
DASH = "\N{EN DASH}"


class Run(NamedTuple):
    """What a run folder says of itself; `models` by name."""

    folder: Path
    results: dict
    config: dict
    models: dict[str, dict]

    @property
    def seed(self) -> int:
        """Of everything random in it."""
        return self.results["seed"]


class Column(NamedTuple):
    """A column of the table of runs: what a run has to show, as an interval, and how it is written.

    Attributes:
      value: `run -> [mean, low, high]`; None where it is not known.
    """

    heading: str
    value: Callable[[Run], Sequence[float | None] | None]
    scale: float = 1.0
    digits: int = 2
    unit: str = ""

    def text(self, value: Sequence[float | None] | None) -> str:
        """An interval, or a mean alone, as it is shown."""
        return DASH if value is None else interval_text(value, self.scale, self.digits, self.unit)


def main(run_folders: Annotated[list[Path], tyro.conf.Positional]) -> None:
    """Writes the tables of runs of one configuration, with different seeds, as Markdown.

    Args:
        run_folders: folders of finished runs of `experiments.rlhf`.
    """
    if not run_folders:
        raise UserError("there is no run folder; give at least one, such as runs/rlhf/tiny")
    print(tables_of([read_run(folder) for folder in run_folders]), end="")


def read_run(folder: Path) -> Run:
    """What a finished run has left.

    Raises:
      UserError: naming the folder, if the run is not finished, or is none of the whole recipe.
    """
    found = []
    for name in ("results.json", "config.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}; give folders of finished runs of experiments.rlhf"
            )
        found.append(read_json(folder / name, "run the same command again"))
    results, config = found
    models = {model["name"]: model for model in results.get("models", [])}
    missing = [name for name in MODELS if name not in models]
    if missing or "seed" not in results:
        raise UserError(
            f"{folder}/results.json says nothing of {', '.join(missing) or 'its seed'}; run the "
            "same command again"
        )
    return Run(folder, results, config, models)


def refuse_different(runs: Sequence[Run]) -> None:
    """Raises a UserError if runs differ in more than their seed, or not even in that."""
    first, seen = runs[0], {}
    for run in runs:
        settings = [one.config | {"seed": None} for one in (first, run)]
        for name, (before, now) in differences(*settings).items():
            raise UserError(
                f"{first.folder} and {run.folder} are of different configurations ({name} is "
                f"{before} and {now}); give runs that differ in their seed alone"
            )
        if run.seed in seen:
            raise UserError(
                f"{seen[run.seed]} and {run.folder} both have seed {run.seed}; give each seed once"
            )
        seen[run.seed] = run.folder


def tables_of(runs: Sequence[Run]) -> str:
    """All tables, as Markdown.

    Args:
      runs: at least one.

    Raises:
      UserError: if they are not of one configuration with different seeds.
    """
    refuse_different(runs)
    parts = [
        f"Seed {runs[0].seed}:\n\n{to_markdown(models_table(runs[0].results))}",
        f"Every seed:\n\n{to_markdown(runs_table(runs))}",
    ]
    kinds = kinds_table(runs)
    if kinds.rows:
        parts.append(
            f"Right answers by kind of question, mean of {len(runs)}:\n\n{to_markdown(kinds)}"
        )
    return "\n".join([*parts, machines(runs), commands(runs)])


def runs_table(runs: Sequence[Run]) -> Table:
    """A row for every run, and their means; a column that no run has a value for is left out."""
    score = score_name([model for run in runs for model in run.models.values()])

    def of_model(name: str, field: str) -> Callable[[Run], Any]:
        return lambda run: run.models[name].get(field)

    def of_reward_model(field: str) -> Callable[[Run], Any]:
        return lambda run: (
            run.results.get("reward_model", {}).get("own_samples", {}).get("SFT", {}).get(field)
        )

    def alone(value: Callable[[Run], float | None]) -> Callable[[Run], Any]:
        return lambda run: None if value(run) is None else [value(run), None, None]

    percent = dict(scale=100, digits=0, unit="%")
    columns = [
        *(Column(f"{score}: {name}", of_model(name, score), digits=3) for name in MODELS),
        Column("right: SFT", of_model("SFT", "right"), **percent),
        Column("right: PPO", of_model("PPO", "right"), **percent),
        Column("difference (points)", of_model("PPO", "right_difference_vs_sft"), 100, 1),
        Column("PPO wins", of_model("PPO", "win_rate_vs_sft"), **percent),
        Column("KL (nats)", alone(of_model("PPO", "kl_from_sft"))),
        Column("reward model: right over wrong", of_reward_model("right_over_wrong"), **percent),
        Column("reward model: all pairs", of_reward_model("accuracy"), **percent),
        Column("minutes", alone(minutes), digits=1),
    ]
    columns = [column for column in columns if any(column.value(run) for run in runs)]
    rows = [
        [str(run.seed), *(column.text(column.value(run)) for column in columns)] for run in runs
    ]
    if len(runs) > 1:
        means = [mean_of([column.value(run) for run in runs]) for column in columns]
        rows.append(["mean", *(column.text(mean) for column, mean in zip(columns, means))])
    return plain(["seed", *(column.heading for column in columns)], rows, "")


def mean_of(values: Sequence[Sequence[float | None] | None]) -> list[float | None] | None:
    """The mean of intervals' means, without an interval; None unless all are known."""
    if None in values:
        return None
    return [statistics.fmean(value[0] for value in values), None, None]


def minutes(run: Run) -> float | None:
    """How long all stages took together."""
    seconds = run.results.get("seconds")
    return sum(seconds.values()) / 60 if seconds else None


def kinds_table(runs: Sequence[Run]) -> Table:
    """The share of right answers to each kind of question, as the mean of the runs that ask it."""
    every = [run.models["SFT"].get("by_kind", {}) for run in runs]
    prompts: dict[str, int] = {}
    for kinds in every:
        for kind, of in kinds.items():
            prompts[kind] = prompts.get(kind, 0) + of["prompts"]

    def right(name: str, kind: str) -> str:
        kinds = [run.models[name].get("by_kind", {}) for run in runs]
        shares = [of[kind]["right"][0] for of in kinds if kind in of]
        return number_text(100 * statistics.fmean(shares), 0) + "%"

    rows = [
        [kind.replace("_", " "), f"{number:,}", *(right(name, kind) for name in MODELS)]
        for kind, number in sorted(prompts.items(), key=lambda item: -item[1])
    ]
    return plain(["question", "prompts", *MODELS], rows, "")


def machines(runs: Sequence[Run]) -> str:
    """What the runs were made on; where that differs, with their seeds."""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        known = run.results.get("machine")
        about = in_words(known) if known else "a machine that is not known"
        seeds.setdefault(about, []).append(str(run.seed))
    if len(seeds) == 1:
        return f"Made on {next(iter(seeds))}.\n"
    return "".join(f"Seed {', '.join(of)}: made on {about}.\n" for about, of in seeds.items())


def commands(runs: Sequence[Run]) -> str:
    """The command of every run, as a block of code."""
    return "".join(f"    {run.results.get('command', 'not known')}\n" for run in runs)


if __name__ == "__main__":
    with terminal.ending_plainly():
        tyro.cli(main, prog="python -m tools.results")
