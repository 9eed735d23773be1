"""Arms of a comparison: stages that differ in a setting or a method, measured by one yardstick.

Each arm is a stage in a folder of its own, of one seed or of many, and resumes as such. What is
held out is measured as the stage goes, so that its `metrics.jsonl` holds a path, and its end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from gpt_jax.evaluate.yardstick import Yardstick
from gpt_jax.metrics import read_metrics
from gpt_jax.parallel import distributed
from gpt_jax.train.command import Common
from gpt_jax.train.launch import Prepare, look_at, run_stage
from gpt_jax.train.run import FINISHED
from gpt_jax.train.seeds_run import configs_of
from gpt_jax.train.stage import Stage

PREFIX = "eval/"


class Arm(NamedTuple):
    """One of what is compared.

    Attributes:
      name: for people.
      stage: its name in the table of stages.
      config: of the stage, with its own `run_dir`, and the same seeds as the others.
      prepare: `(config, mesh) -> Stage`.
    """

    name: str
    stage: str
    config: Common
    prepare: Prepare

    @property
    def folders(self) -> list[Path]:
        """Of its seeds, in order."""
        config = self.config
        alone = [config] if config.seeds == 1 else configs_of(config)
        return [Path(one.run_dir) for one in alone]


def measured(prepare: Prepare, yardstick: Yardstick) -> Prepare:
    """The same stage, evaluated by the yardstick; the draws of every seed are its own."""

    def both(config: Common, mesh: Mesh) -> Stage:
        return dataclasses.replace(prepare(config, mesh), evaluate=yardstick.with_seed(config.seed))

    return both


def run_arms(
    arms: Sequence[Arm],
    yardstick: Yardstick,
    mesh: Mesh,
    begin: Callable[[], None] = lambda: None,
) -> None:
    """Runs what is not finished, one after the other, once all of it has been looked at.

    Args:
      arms: with folders of their own.
      yardstick: what they are measured by.
      mesh: over which they are looked at; of every kind of stage the first one.
      begin: called when nothing stands against the first step.
    """
    waiting = [arm for arm in arms if not (Path(arm.config.run_dir) / FINISHED).is_file()]
    with contextlib.redirect_stdout(distributed.SaidOnce(sys.stdout)):
        for arm in {arm.stage: arm for arm in reversed(waiting)}.values():
            config = arm.config if arm.config.seeds == 1 else configs_of(arm.config)[0]
            look_at(measured(arm.prepare, yardstick)(config, mesh), config.seed, mesh)
    begin()
    for number, arm in enumerate(arms, 1):
        distributed.say(f"{arm.name}: {number} of {len(arms)}")
        run_stage(arm.stage, arm.config, measured(arm.prepare, yardstick))


def path_of(arm: Arm) -> list[dict[str, np.ndarray]]:
    """What was measured on the way, the end last: {metric: (S,)} with a value for every seed."""
    rows_of = [
        [row for row in read_metrics(folder) if any(name.startswith(PREFIX) for name in row)]
        for folder in arm.folders
    ]
    return [
        {
            name.removeprefix(PREFIX): np.array([row[name] for row in rows])
            for name in rows[0]
            if name.startswith(PREFIX)
        }
        | {"step": np.array([row["step"] for row in rows])}
        for rows in zip(*rows_of, strict=True)
    ]


def sampled_tokens(arm: Arm, episodes: int) -> float:
    """Tokens that a seed has sampled, the mean over seeds, where every iteration was logged."""
    lengths = [row.get("objective/length", 0.0) for f in arm.folders for row in read_metrics(f)]
    return episodes * sum(lengths) / len(arm.folders)
