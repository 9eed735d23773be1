"""The training loop that every stage shares."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from gpt_jax.data import pipeline
from gpt_jax.train.metrics import mean
from gpt_jax.train.progress import Progress
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
    tokens_per_step: int = 0,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    schedule: Callable[[int], Any] | None = None,
    headline: tuple[str, ...] = ("loss",),
    derive: Callable[[dict[str, float]], dict[str, float]] = lambda values: {},
    finish: Callable[[TrainState], TrainState] | None = None,
) -> TrainState:
    """Takes `state` to `config.steps`, from wherever it stands.

    The metrics of step t-1 are fetched after step t has been dispatched, so the devices never
    wait for the host. Ctrl-C writes a checkpoint before it ends the run.

    Args:
      step: `(state, batch) -> (state, metrics)`, jitted; metrics are (sum, count) pairs.
      batch_at: this process's rows of the batch of a step.
      tokens_per_step: for `tokens_per_second`, unless the metrics have their own `tokens`.
      evaluate: gives held-out metrics, written under `eval/`.
      schedule: learning rate of an update number, written as `lr`.
      headline: the metrics that the progress bar shows.
      derive: further metrics, formed from the means (a perplexity, a rate).
      finish: applied to the state after the last step, before it is evaluated and saved.
    """
    start = int(state.step)
    pending: tuple[int, dict] | None = None
    clock = _Clock(tokens_per_step)

    def log(number: int, metrics: dict) -> None:
        values = mean(jax.device_get(metrics))
        values |= clock.lap(number, values.pop("tokens", None))
        if schedule is not None:
            values["lr"] = float(schedule(number - 1))
        values |= derive(values)
        shown = {name.split("/")[-1]: values[name] for name in headline}
        progress.update(number, **shown, tokens_per_second=values["tokens_per_second"])
        if number % config.log_every == 0 or number in (1, config.steps):
            run.metrics.write(number, values)

    with Progress(run.name, config.steps, done=start) as progress, jax.set_mesh(mesh):
        try:
            for number in range(start + 1, config.steps + 1):
                state, metrics = step(state, pipeline.place(batch_at(number - 1), mesh))
                if pending:
                    log(*pending)
                pending = (number, metrics)
                last = number == config.steps
                if finish and last:
                    state = finish(state)
                if evaluate and (last or number % config.evaluate_every == 0):
                    held_out = evaluate(state)
                    run.metrics.write(number, {f"eval/{k}": v for k, v in held_out.items()})
                    clock.skip()
                if last or number % config.checkpoint_every == 0:
                    run.checkpoints.save(number, state)
            if pending:
                log(*pending)
        except KeyboardInterrupt:
            if pending:
                log(*pending)
            _save_where_it_stands(run, state, start)
            raise
    return state


def _save_where_it_stands(run: Run, state: TrainState, start: int) -> None:
    reached = int(state.step)
    if reached > start and reached != run.checkpoints.latest_step:
        run.checkpoints.save(reached, state)


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


def perplexity(values: dict[str, float]) -> dict[str, float]:
    """exp(loss), for `derive` of the language-model stages."""
    return {"perplexity": math.exp(min(values["loss"], 700.0))}
