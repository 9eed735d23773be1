"""The training loop that every stage shares."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax.data import pipeline
from gpt_jax.errors import UserError
from gpt_jax.metrics import mean
from gpt_jax.parallel import distributed
from gpt_jax.train.finite import TENSOR
from gpt_jax.train.host import return_freed_memory
from gpt_jax.train.progress import Progress
from gpt_jax.train.replay import origin, replay
from gpt_jax.train.run import Run
from gpt_jax.train.samples import sample_steps
from gpt_jax.train.stage import Stage
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import Step


def fit(run: Run, stage: Stage, state: TrainState, frozen: dict, mesh: Mesh) -> TrainState:
    """Takes `state` to the stage's last step, from wherever it stands.

    The metrics of step t-1 are fetched after step t has been dispatched, so the devices never
    wait for the host. Ctrl-C and SIGTERM write a checkpoint before they end the run. A checkpoint
    is written before what is evaluated or sampled after the same step; what of it a stopped run
    has not written is made up for.

    Of many seeds (`vectorized.py`) a metric is an array (S,), and the run one of all of them.

    Args:
      run: the open folder.
      stage: what is trained, on what.
      state: restored or new.
      frozen: the parameters that the steps are given beside it.
      mesh: on which all of it lies.

    Raises:
      UserError: after `most_skipped` skipped steps in a row.
    """
    config = stage.train
    if run.replay:
        replay(run, stage, state, frozen, mesh)
    start = int(np.max(jax.device_get(state.step)))
    pending: tuple[int, dict] | None = None
    programs: dict[tuple, Step] = {}  # one for each shape of a batch
    skipped = np.zeros((), int)  # steps in a row; of each seed, where there are many
    clock = _Clock()

    def log(number: int, metrics: dict) -> None:
        nonlocal skipped
        wanted = {name: pair for name, pair in metrics.items() if not name.startswith(TENSOR)}
        values = mean(jax.device_get(wanted))
        values |= clock.lap(values.pop("tokens", stage.tokens_at(number - 1)))
        values["lr"] = float(stage.learning_rate(number - 1))
        values |= stage.derive(values)
        shown = {name.split("/")[-1]: values[name] for name in stage.headline}
        speed = np.broadcast_to(values["tokens_per_second"], np.shape(values["skipped"]))
        progress.update(number, **shown, tokens_per_second=speed.sum())
        skipped = np.where(np.equal(values["skipped"], 1), skipped + 1, 0)  # of all its minibatches
        in_time = number % config.log_every == 0 or number in (1, config.steps)
        if in_time or np.any(values["skipped"]):
            run.metrics.write(number, values)
        for place in np.flatnonzero(skipped == config.most_skipped)[:1]:
            first, stuck = number - config.most_skipped + 1, run.of(place)
            rows = functools.partial(_rows_of, stage, place)
            raise UserError(
                f"{stuck.name}: steps {first} to {number} had a loss or gradient that is not "
                f"finite and were skipped; the last good checkpoint is "
                f"{stuck.checkpoints.newest()}; step {first} {origin(stuck, first, rows)}; add "
                f"--replay {first} to the command{stuck.how} to see which tensors are not finite"
            )

    def evaluate(number: int) -> None:
        held_out = stage.evaluate(state, frozen)
        run.metrics.write(number, {f"eval/{k}": v for k, v in held_out.items()})

    def due(number: int) -> bool:
        last = number == config.steps
        return stage.evaluate is not None and (last or number % config.evaluate_every == 0)

    def sample(number: int) -> None:
        run.write_samples(number, stage.samples(state.params))

    sampled = sample_steps(config.steps) if stage.samples else set()
    quiet = not distributed.is_main()
    with Progress(run.name, config.steps, done=start, quiet=quiet) as progress, jax.set_mesh(mesh):
        if start and due(start) and not run.evaluated(start):
            evaluate(start)
        if start in sampled:
            sample(start)  # which a stopped run may not have written, and else writes the same
        for number in range(start + 1, config.steps + 1):
            batch = pipeline.place(stage.batch_at(number - 1), mesh)
            shapes = tuple(x.shape for x in jax.tree.leaves(batch))
            if shapes not in programs:
                programs[shapes] = compiled(stage.functions.step, state, batch, frozen)
            state, metrics = programs[shapes](state, batch, frozen)
            if pending:
                log(*pending)
            pending = (number, metrics)
            last, stop = number == config.steps, run.stop.wanted()
            save = last or stop or number % config.checkpoint_every == 0
            pause = save or due(number) or number in sampled
            if pause:
                log(*pending)  # so that no checkpoint is ahead of the metrics
                pending = None
            if stage.finish and last:
                state = stage.finish(state, frozen)
            if save and (last or stop or not np.any(skipped)):
                run.checkpoints.save(number, state)
            if due(number):
                evaluate(number)
            if number in sampled:
                sample(number)
            if pause:
                clock.skip()
            if stop and not last:
                distributed.say(
                    f"{run.name}: stopped after step {number:,}; the same command resumes"
                )
                run.stop.end()
    return state


def compiled(step: Step, state: TrainState, batch: Any, frozen: dict) -> Step:
    """The step as a program; what compiling it took is given back before it first runs.

    Compiling and running each want memory that the other does not: half a gigabyte for PPO's
    iteration on a model of half a million parameters. A step that is no single program stays as
    it is.
    """
    if not hasattr(step, "lower"):
        return step
    program = step.lower(state, batch, frozen).compile()
    return_freed_memory()
    return program


def _rows_of(stage: Stage, place: int, step: int) -> np.ndarray:
    """The rows of a step; of many seeds, those of the one at this place."""
    return np.atleast_2d(stage.row_numbers(step))[place]


class _Clock:
    """Tokens per second between logged steps, evaluations left out."""

    def __init__(self):
        self.last = time.monotonic()

    def skip(self) -> None:
        self.last = time.monotonic()

    def lap(self, tokens: float) -> dict[str, float]:
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        return {"tokens_per_second": tokens / seconds, "seconds_per_step": seconds}
