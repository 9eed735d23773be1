"""The training loop that every stage shares."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax.data import pipeline
from gpt_jax.errors import UserError
from gpt_jax.metrics import mean
from gpt_jax.parallel import distributed
from gpt_jax.parallel.chips import chip_of
from gpt_jax.train.finite import TENSOR
from gpt_jax.train.progress import Progress
from gpt_jax.train.replay import origin, replay
from gpt_jax.train.run import Run
from gpt_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long a stage trains and how often it writes."""

    steps: int
    """Updates (for PPO: iterations); 0 is one pass over the data."""
    batch_size: int = 32
    """Rows per update over all devices (PPO has `episodes` instead)."""
    accumulate: int = 1
    """Micro-batches per update: less memory, the same numbers."""
    log_every: int = 10
    """Steps between lines of metrics."""
    evaluate_every: int = 100
    """Steps between evaluations on held-out data."""
    checkpoint_every: int = 100
    """Steps between checkpoints; one is always written at the end."""
    most_skipped: int = 10
    """Steps in a row whose loss or gradient is not finite, after which the run ends."""


def resolve_steps(config: TrainConfig, rows: int) -> TrainConfig:
    """`steps=0` resolved to one pass over the rows."""
    steps = config.steps or max(1, rows // config.batch_size)
    return dataclasses.replace(config, steps=steps)


def fit(
    run: Run,
    state: TrainState,
    step: Callable[[TrainState, Any], tuple[TrainState, dict]],
    batch_at: Callable[[int], Any],
    config: TrainConfig,
    *,
    mesh: Mesh,
    row_numbers: Callable[[int], np.ndarray],
    tokens_per_step: int = 0,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    schedule: Callable[[int], Any] | None = None,
    headline: tuple[str, ...] = ("loss",),
    derive: Callable[[dict[str, float]], dict[str, float]] = lambda values: {},
    finish: Callable[[TrainState], TrainState] | None = None,
) -> TrainState:
    """Takes `state` to `config.steps`, from wherever it stands.

    The metrics of step t-1 are fetched after step t has been dispatched, so the devices never
    wait for the host. Ctrl-C and SIGTERM write a checkpoint before they end the run.

    Args:
      step: `(state, batch) -> (state, metrics)`, jitted; metrics are (sum, count) pairs.
      batch_at: this process's rows of the batch of a step.
      row_numbers: which rows of the data the batch of a step has, to name those of a bad step.
      tokens_per_step: for `tokens_per_second`, unless the metrics have their own `tokens`.
      evaluate: gives held-out metrics, written under `eval/`.
      schedule: learning rate of an update number, written as `lr`.
      headline: the metrics that the progress bar shows.
      derive: further metrics, formed from the means (a perplexity, a rate).
      finish: applied to the state after the last step, before it is evaluated and saved.

    Raises:
      UserError: after `config.most_skipped` skipped steps in a row.
    """
    if run.replay:
        replay(run, state, step, batch_at, mesh=mesh, row_numbers=row_numbers)
    start = int(state.step)
    pending: tuple[int, dict] | None = None
    skipped = 0  # steps in a row
    clock = _Clock(tokens_per_step)

    def log(number: int, metrics: dict) -> None:
        nonlocal skipped
        wanted = {name: pair for name, pair in metrics.items() if not name.startswith(TENSOR)}
        values = mean(jax.device_get(wanted))
        values |= clock.lap(number, values.pop("tokens", None))
        if schedule is not None:
            values["lr"] = float(schedule(number - 1))
        values |= derive(values)
        shown = {name.split("/")[-1]: values[name] for name in headline}
        progress.update(number, **shown, tokens_per_second=values["tokens_per_second"])
        skipped = skipped + 1 if values["skipped"] else 0
        if skipped or number % config.log_every == 0 or number in (1, config.steps):
            run.metrics.write(number, values)
        if skipped == config.most_skipped:
            first = number - skipped + 1
            raise UserError(
                f"{run.name}: steps {first} to {number} had a loss or gradient that is not finite "
                f"and were skipped; the last good checkpoint is {run.checkpoints.newest()}; step "
                f"{first} {origin(run, first, row_numbers)}; add --replay {first} to the command "
                "to see which tensors are not finite"
            )

    quiet = not distributed.is_main()
    with Progress(run.name, config.steps, done=start, quiet=quiet) as progress, jax.set_mesh(mesh):
        for number in range(start + 1, config.steps + 1):
            state, metrics = step(state, pipeline.place(batch_at(number - 1), mesh))
            if pending:
                log(*pending)
            pending = (number, metrics)
            last, stop = number == config.steps, run.stop.wanted()
            due = last or number % config.evaluate_every == 0
            save = last or stop or number % config.checkpoint_every == 0
            if due or save:
                log(*pending)  # so that no checkpoint is ahead of the metrics
                pending = None
            if finish and last:
                state = finish(state)
            if evaluate and due:
                held_out = evaluate(state)
                run.metrics.write(number, {f"eval/{k}": v for k, v in held_out.items()})
            if save and (last or stop or not skipped):
                run.checkpoints.save(number, state)
            if due or save:
                clock.skip()
            if stop and not last:
                distributed.say(
                    f"{run.name}: stopped after step {number:,}; the same command resumes"
                )
                run.stop.end()
    return state


class _Clock:
    """Tokens per second between logged steps, evaluations left out."""

    def __init__(self, tokens_per_step: int):
        self.tokens_per_step = tokens_per_step
        self.last = time.monotonic()

    def skip(self) -> None:
        self.last = time.monotonic()

    def lap(self, number: int, tokens: float | None) -> dict[str, float]:
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        tokens = self.tokens_per_step if tokens is None else tokens
        return {"tokens_per_second": tokens / seconds, "seconds_per_step": seconds}


def language_metrics(
    flops_per_step: float, mesh: Mesh
) -> Callable[[dict[str, float]], dict[str, float]]:
    """For `derive` of the language-model stages: `perplexity`, and `mfu` on chips that are known.

    The MFU is the FLOP/s that the model's formula asks for over the peak of the devices (Chowdhery
    et al. 2022, appendix B); `flops_per_step` is over all devices.
    """
    chip = chip_of(mesh.devices.flat[0].device_kind)

    def derive(values: dict[str, float]) -> dict[str, float]:
        found = {"perplexity": math.exp(min(values["loss"], 700.0))}
        if chip is not None:
            peak = mesh.size * chip.flops
            found["mfu"] = flops_per_step / values["seconds_per_step"] / peak
        return found

    return derive
