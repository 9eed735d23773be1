"""`--replay STEP`: what went into one step of a run, and which of its gradients are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax import keys
from gpt_jax.data import pipeline
from gpt_jax.metrics import mean
from gpt_jax.parallel import distributed
from gpt_jax.train.finite import TENSOR
from gpt_jax.train.run import Run
from gpt_jax.train.stage import Stage
from gpt_jax.train.state import TrainState


def replay(run: Run, stage: Stage, state: TrainState, frozen: dict, mesh: Mesh) -> None:
    """Takes `state` through step `run.replay` as `fit` did, says what happened there, and ends.

    Nothing is written: every batch and every key is a function of the step's number.
    """
    start = int(state.step)
    with jax.set_mesh(mesh):
        for number in range(start + 1, run.replay + 1):
            batch = pipeline.place(stage.batch_at(number - 1), mesh)
            state, metrics = stage.functions.step(state, batch, frozen)
    values = mean(jax.device_get(metrics))
    distributed.say(f"{run.name}: step {run.replay} again, from step {start}")
    distributed.say(f"It {origin(run, run.replay, stage.row_numbers)}.")
    tensors = {k.removeprefix(TENSOR): values.pop(k) for k in sorted(values) if TENSOR in k}
    for name, value in values.items():
        distributed.say(f"{name} {value:.8g}")
    bad = [f"{name} ({value})" for name, value in tensors.items() if not math.isfinite(value)]
    distributed.say(f"gradients that are not finite: {', '.join(bad) or 'none'}")
    raise SystemExit(0)


def origin(run: Run, number: int, row_numbers: Callable[[int], np.ndarray]) -> str:
    """What a step was computed from."""
    rows = " ".join(str(row) for row in row_numbers(number - 1))
    key = jax.random.key_data(keys.derive(run.seed, number - 1, "loss")).tolist()
    return (
        f"has the rows {rows} and the keys of keys.derive(seed={run.seed}, step={number - 1}, "
        f"purpose), which for the loss is {key}"
    )
