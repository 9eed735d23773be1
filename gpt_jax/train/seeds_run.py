"""The run folder of many seeds that are trained together; `gpt_jax/seeds.py` has its layout.

Every seed has a whole run folder: configuration, metrics, checkpoints, the model to be used. So a
killed run of many resumes as each of them would alone, and one seed can be looked at by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from gpt_jax import files, seeds
from gpt_jax.errors import UserError
from gpt_jax.metrics import MetricWriter, read_metrics
from gpt_jax.parallel import distributed
from gpt_jax.parallel.rules import Axes
from gpt_jax.report.openings import FILE as OPENINGS
from gpt_jax.train import run as runs
from gpt_jax.train import state as states
from gpt_jax.train.command import Common, compilation_cache_for_all
from gpt_jax.train.inputs import FOLDERS, compare_inputs
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.run import Run
from gpt_jax.train.state import TrainState
from gpt_jax.train.stop import Stop
from gpt_jax.train.vectorized import one, stack


def configs_of(config: Common) -> list[Common]:
    """The configuration of every seed, as it would be given alone.

    Of an earlier stage's folder that holds many seeds each starts from its own.

    Raises:
      UserError: if such a folder lacks one of the seeds.
    """
    if config.replay:
        first = seeds.folder_of(config.run_dir, config.seed)
        raise UserError(
            f"--replay repeats a step of one seed; leave --seeds out and give its folder, such as "
            f"--seed {config.seed} --run-dir {first}"
        )

    def own(where: str | None, seed: int) -> str | None:
        many = where is not None and seeds.seeds_in(where)
        return str(seeds.one_of(where, seed)) if many else where

    def of(seed: int) -> Common:
        folders = {f: own(getattr(config, f), seed) for f in FOLDERS if hasattr(config, f)}
        if hasattr(config, "labels_from"):
            folders["labels_from"] = tuple(own(where, seed) for where in config.labels_from)
        return dataclasses.replace(
            config,
            seed=seed,
            seeds=1,
            sweep=(),
            run_dir=str(seeds.folder_of(config.run_dir, seed)),
            tensorboard=False,  # the whole writes these
            wandb=False,
            **folders,
        )

    return [of(config.seed + place) for place in range(config.seeds)]


def start_alike(configs: Sequence[Common]) -> bool:
    """Whether all seeds start from the very same folders."""
    places = [[getattr(config, field, None) for field in FOLDERS] for config in configs]
    return all(one == places[0] for one in places)


def are_finished(name: str, config: Common) -> bool:
    """Whether `config.run_dir` holds finished runs of all these seeds (and says so)."""
    folder = Path(config.run_dir)
    if not distributed.agree((folder / runs.FINISHED).is_file()):
        return False
    if compare_config(folder, name, config):
        return False
    for of_seed in configs_of(config):
        compare_inputs(Path(of_seed.run_dir), of_seed)
    distributed.say(f"{name}: {folder} is already finished")
    return True


def open_folder(name: str, config: Common) -> Path:
    """The folder of the whole, which holds the seeds' and is not finished (any more)."""
    folder = Path(config.run_dir)
    record_config(folder, name, config)
    distributed.on_main(lambda: (folder / runs.FINISHED).unlink(missing_ok=True))
    return folder


def in_turn(name: str, config: Common, run_one: Callable[[Any], Any]) -> list[Any]:
    """Runs every seed by itself, as a whole; the programs come from the compilation cache.

    Args:
      name: of the stage.
      config: of the experiment, with its seeds.
      run_one: runs the configuration of one seed.

    Returns:
      what it gave, for every seed.
    """
    configs, folder = configs_of(config), open_folder(name, config)
    compilation_cache_for_all()
    found = []
    for number, of_seed in enumerate(configs, 1):
        distributed.say(f"{name}: seed {of_seed.seed}, {number} of {len(configs)}")
        found.append(run_one(of_seed))
    join_metrics(folder, [Path(of_seed.run_dir) for of_seed in configs])
    return found


def join_metrics(folder: Path, folders: Sequence[Path]) -> None:
    """Writes the metrics of a folder from those of its seeds, and what is the first one's."""
    merged = seeds.merge([read_metrics(one) for one in folders])
    if merged:
        with MetricWriter(folder, silent=not distributed.is_main()) as writer:
            writer.truncate(-1)
            for row in merged:
                writer.write(row.pop("step"), row)
    show_first(folder, folders[0])


def show_first(folder: Path, first: Path) -> None:
    """Puts into the folder of the whole what its report shows of the first seed alone: samples, and
    what was left out of the data."""
    for name in (OPENINGS, "data.json"):
        if (first / name).is_file():
            text = (first / name).read_text(encoding="utf-8")
            distributed.on_main(lambda path=folder / name, t=text: files.write_text(path, t))


class SeedsRun:
    """`with SeedsRun(name, config) as run:` opens the folders of all seeds, for `fit`.

    Attributes:
      name, seed, folder, stop, replay: as of a `Run`; the seed is the first one.
      runs: of the seeds.
      metrics: takes arrays (S,), and writes them to the seeds' files and their means to the whole.
      checkpoints: takes states with a leading axis of seeds.
    """

    def __init__(self, name: str, config: Common):
        self.name, self.seed, self.replay = name, config.seed, None
        self.folder = open_folder(name, config)
        self.runs = [Run(name, of_seed) for of_seed in configs_of(config)]
        for run in self.runs:
            run.name = f"{name}, seed {run.seed}"
            run.how = f", without --seeds, with --seed {run.seed} --run-dir {run.folder}"
        self.metrics = SeedsMetrics(
            [run.metrics for run in self.runs],
            MetricWriter(
                self.folder,
                tensorboard=config.tensorboard,
                wandb=config.wandb,
                silent=not distributed.is_main(),
            ),
        )
        self.checkpoints = SeedsCheckpoints(self.runs)
        self.stop = Stop()

    def __enter__(self) -> SeedsRun:
        self.stop.__enter__()
        return self

    def __exit__(self, error_type: type | None, *rest: object) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.metrics.whole.close)
            for run in self.runs:
                stack.callback(run.close, error_type)
        if error_type is None:
            for run in self.runs:
                finished = run.folder / runs.FINISHED
                distributed.on_main(lambda path=finished: files.write_text(path, ""))
            show_first(self.folder, self.runs[0].folder)
            runs.finish(self.folder)
        self.stop.__exit__(error_type, *rest)

    def of(self, place: int) -> Run:
        """The run of the seed at this place."""
        return self.runs[place]

    def restore_or_create(
        self,
        init: Callable[..., TrainState],
        origins: Sequence[tuple],
        *,
        mesh: Mesh,
        axes: Axes,
    ) -> TrainState:
        """The states of all seeds side by side, from the newest step that all have a checkpoint of.

        A killed run may have written its last one for some of the seeds only.
        """
        written = [set(run.checkpoints.steps()) for run in self.runs]
        step = distributed.agree(max(set.intersection(*written), default=-1))
        self.metrics.truncate(step)
        found = []
        for run, origin in zip(self.runs, origins, strict=True):
            run.checkpoints.drop_after(step)
            start = (np.uint32(run.seed), *origin)
            if step < 0:
                found.append(states.create(init, *start, mesh=mesh, axes=axes))
            else:
                target = states.abstract(init, *start, mesh=mesh, axes=axes)
                found.append(run.checkpoints.restore(step, target))
        if step >= 0:
            distributed.say(f"{self.name}: resuming {self.folder} from step {step:,}")
        return stack(found)

    def evaluated(self, step: int) -> bool:
        """Whether the held-out metrics of a step are written for every seed."""
        return all([run.evaluated(step) for run in self.runs])

    def write_samples(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes {opening: text} of the first seed."""
        self.runs[0].write_samples(step, texts)


class SeedsMetrics:
    """The metrics of every seed, and the mean and interval of each."""

    def __init__(self, of_seeds: Sequence[MetricWriter], whole: MetricWriter):
        self.of_seeds, self.whole = of_seeds, whole

    def write(self, step: int, values: Mapping[str, ArrayLike]) -> None:
        """Writes a row of each seed, and then that of the whole."""
        for place, writer in enumerate(self.of_seeds):
            writer.write(step, seeds.of_seed(values, place))
        self.whole.write(step, seeds.together(values))

    def truncate(self, step: int) -> None:
        """Drops every row with a step greater than `step`."""
        for writer in (*self.of_seeds, self.whole):
            writer.truncate(step)


class SeedsCheckpoints:
    """The checkpoints of every seed, from states with a leading axis of seeds."""

    def __init__(self, of_runs: Sequence[Run]):
        self.runs = of_runs

    def save(self, step: int, state: Any) -> None:
        """Writes each seed's state into its own folder."""
        for place, run in enumerate(self.runs):
            run.checkpoints.save(step, one(state, place))
