"""A run folder: the configuration that made it, its metrics and its checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from gpt_jax.errors import UserError
from gpt_jax.report import write_report
from gpt_jax.train import state as states
from gpt_jax.train.checkpoint import Checkpoints
from gpt_jax.train.command import Common
from gpt_jax.train.metrics import MetricWriter
from gpt_jax.train.state import TrainState

FINISHED = "finished"  # an empty file: this stage needs nothing more


def is_finished(name: str, config: Common) -> bool:
    """Whether `config.run_dir` holds a finished run of this very configuration (and says so)."""
    folder = Path(config.run_dir)
    if not (folder / FINISHED).is_file():
        return False
    record_config(folder, config)
    print(f"{name}: {folder} is already finished", flush=True)
    return True


class Run:
    """`with Run(name, config) as run:` opens a stage's folder, new or to be resumed.

    Attributes:
      name: of the stage, for people.
      folder: where `config.json`, `metrics.jsonl` and `checkpoints/` lie.
      metrics: the MetricWriter.
      checkpoints: the Checkpoints.
    """

    def __init__(self, name: str, config: Common):
        self.name = name
        self.folder = Path(config.run_dir)
        record_config(self.folder, config)
        self.checkpoints = Checkpoints(self.folder)
        self.metrics = MetricWriter(self.folder, tensorboard=config.tensorboard, wandb=config.wandb)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        self.checkpoints.close()
        self.metrics.close()
        if error_type is None:
            write_report(self.folder)
            (self.folder / FINISHED).touch()

    def restore_or_create(
        self, init: Callable[..., TrainState], *args: Any, mesh: Mesh
    ) -> TrainState:
        """The newest checkpoint's state if there is one (and says so), else `init(*args)`."""
        step = self.checkpoints.latest_step
        if step is None:
            self.metrics.truncate(-1)
            return states.create(init, *args, mesh=mesh)
        state = self.checkpoints.restore(states.abstract(init, *args, mesh=mesh))
        self.metrics.truncate(step)
        print(f"{self.name}: resuming {self.folder} from step {step:,}", flush=True)
        return state


def record_config(folder: Path, config: Any) -> None:
    """Writes `config.json`, or checks that the folder's is the same.

    Raises:
      UserError: naming the first setting that differs, since mixing two configurations in one
        folder would make neither reproducible.
    """
    path = folder / "config.json"
    fresh = dataclasses.asdict(config)
    fresh.pop("run_dir")  # a folder may be moved
    if path.is_file():
        try:
            old = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(
                f"{path}: not a configuration ({error}); choose another --run-dir"
            ) from error
        difference = _first_difference(old, fresh)
        if difference:
            raise UserError(
                f"{folder} was made with another configuration ({difference}); choose another "
                "--run-dir, or give the options it was made with"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(fresh, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); choose another --run-dir"
        ) from error


def _first_difference(old: Any, new: Any, name: str = "") -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(k for k in old if k not in new)]:
            child = f"{name}.{key}".lstrip(".")
            if difference := _first_difference(old.get(key), new.get(key), child):
                return difference
        return None
    return None if old == new else f"{name} was {old} and is now {new}"
