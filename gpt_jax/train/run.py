"""A run folder: the configuration and the inputs that made it, its metrics and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from gpt_jax import files
from gpt_jax.metrics import MetricWriter, read_metrics
from gpt_jax.parallel import distributed
from gpt_jax.parallel.rules import Axes
from gpt_jax.report import write_report
from gpt_jax.report.openings import add_openings
from gpt_jax.train import state as states
from gpt_jax.train.checkpoint import Checkpoints
from gpt_jax.train.command import Common
from gpt_jax.train.inputs import compare_inputs
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.state import TrainState
from gpt_jax.train.stop import Stop

FINISHED = "finished"  # an empty file: this stage needs nothing more


def is_finished(name: str, config: Common) -> bool:
    """Whether `config.run_dir` holds a finished run of this very configuration (and says so).

    A finished run whose steps have grown since is not finished any more.
    """
    folder = Path(config.run_dir)
    if not distributed.agree((folder / FINISHED).is_file()):
        return False
    if compare_config(folder, name, config):
        return False
    compare_inputs(folder, config)
    distributed.say(f"{name}: {folder} is already finished")
    return True


def finish(folder: Path) -> None:
    """Writes the report of a stage that needs nothing more, and says so in its folder."""

    def write() -> None:
        write_report(folder)
        files.write_text(folder / FINISHED, "")

    distributed.on_main(write)


class Run:
    """`with Run(name, config) as run:` opens a stage's folder, new or to be resumed.

    Within it, Ctrl-C and SIGTERM only set `run.stop`. Process 0 alone writes `metrics`.

    Attributes:
      name: of the stage, for people.
      seed: of everything random.
      folder: where `config.json`, `metrics.jsonl` and `checkpoints/` lie.
      metrics: the MetricWriter.
      checkpoints: the Checkpoints.
      stop: whether a signal asked the run to end.
      replay: the step to look at instead of training, or None.
      how: what a command has to be given besides, to be about this run.
    """

    how = ""

    def __init__(self, name: str, config: Common):
        self.name, self.seed, self.replay = name, config.seed, config.replay
        self.folder = Path(config.run_dir)
        record_config(self.folder, name, config)
        if not self.replay:
            distributed.on_main(lambda: (self.folder / FINISHED).unlink(missing_ok=True))
        self.checkpoints = Checkpoints(self.folder)
        self.metrics = MetricWriter(
            self.folder,
            tensorboard=config.tensorboard,
            wandb=config.wandb,
            silent=not distributed.is_main(),
        )
        self.stop = Stop()

    def __enter__(self) -> Run:
        self.stop.__enter__()
        return self

    def __exit__(self, error_type: type | None, *rest: object) -> None:
        self.close(error_type)
        if error_type is None:
            finish(self.folder)
        self.stop.__exit__(error_type, *rest)

    def close(self, error_type: type | None = None) -> None:
        """Waits until all is on disk, if the run ended or was stopped and did not fail."""
        try:
            # Of many processes, one that fails cannot wait for the others to write a checkpoint.
            if jax.process_count() == 1 or error_type in (None, SystemExit, KeyboardInterrupt):
                self.checkpoints.close()
        finally:
            self.metrics.close()

    def of(self, place: int) -> Run:
        """The run of one seed, which here is the only one."""
        del place
        return self

    def restore_or_create(
        self, init: Callable[..., TrainState], *args: Any, mesh: Mesh, axes: Axes
    ) -> TrainState:
        """The newest checkpoint's state if there is one (and says so), else `init(*args)`.

        To replay a step it is the newest before that step.
        """
        steps = [s for s in self.checkpoints.steps() if s < (self.replay or s + 1)]
        step = distributed.agree(max(steps, default=-1))
        if not self.replay:
            self.metrics.truncate(step)
        if step < 0:
            return states.create(init, *args, mesh=mesh, axes=axes)
        state = self.checkpoints.restore(step, states.abstract(init, *args, mesh=mesh, axes=axes))
        if not self.replay:
            distributed.say(f"{self.name}: resuming {self.folder} from step {step:,}")
        return state

    def evaluated(self, step: int) -> bool:
        """Whether the held-out metrics of a step are written; the same on every process."""
        rows = read_metrics(self.folder) if distributed.is_main() else []
        written = any(
            row["step"] == step and any(name.startswith("eval/") for name in row) for row in rows
        )
        return bool(distributed.agree(written))

    def write_samples(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes {opening: text} of a step into `samples.jsonl`; all processes must call it."""
        distributed.on_main(lambda: add_openings(self.folder, step, texts))
