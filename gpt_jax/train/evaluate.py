"""Held-out evaluation: every row counted exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from gpt_jax.data import pipeline
from gpt_jax.data.batches import pad_rows
from gpt_jax.metrics import mean
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import LossFn

Evaluate = Callable[[TrainState, dict], dict[str, float]]


def make_evaluate(model: Any, loss: LossFn, rows: Any, batch_size: int, mesh: Mesh) -> Evaluate:
    """Returns `evaluate(state, frozen)`: the loss's metrics over all `rows`, a fixed held-out set.

    The last batch is filled up with empty rows, which count for nothing. The loss's key is None:
    nothing is dropped.
    """
    rows = pad_rows(rows, batch_size)

    @jax.jit
    def metrics_of(params, batch, frozen):
        return loss(model, params, batch, None, frozen)[2]

    def evaluate(state: TrainState, frozen: dict) -> dict[str, float]:
        batches = pipeline.in_order(rows, batch_size, mesh)
        parts = [metrics_of(state.params, batch, frozen) for batch in batches]
        return mean(jax.tree.map(lambda *xs: sum(xs), *jax.device_get(parts)))

    return evaluate
