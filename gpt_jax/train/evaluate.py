"""Held-out evaluation: every row counted exactly once."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from gpt_jax.data import pipeline
from gpt_jax.data.batches import pad_rows
from gpt_jax.data.lengths import narrowed, sorted_by_length
from gpt_jax.errors import UserError
from gpt_jax.losses.lm import Metrics
from gpt_jax.metrics import mean
from gpt_jax.models.lora import on_backbone
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import LossFn


class HeldOut:
    """`held_out(state, frozen)`: the loss's metrics over a fixed set of rows.

    The last batch is filled up with empty rows, which count for nothing. The loss's key is None:
    nothing is dropped.

    Args:
      model, loss: `loss(model, learned, batch, key, frozen)`.
      rows: NumPy arrays with one leading axis.
      batch_size: rows per compiled call.
      mesh: over which they are split.
      by_length: whether rows of alike length are taken together and cut (`data.lengths`).

    Raises:
      UserError: if there is no row.
    """

    def __init__(
        self,
        model: Any,
        loss: LossFn,
        rows: Any,
        batch_size: int,
        mesh: Mesh,
        *,
        by_length: bool = False,
    ):
        if not len(jax.tree.leaves(rows)[0]):
            raise UserError("there is nothing to evaluate on; give more rows, or a held-out file")
        if by_length:
            rows = sorted_by_length(rows)
        self._form = narrowed if by_length else lambda batch: batch
        self._rows, self._size, self._mesh = pad_rows(rows, batch_size), batch_size, mesh
        self._metrics_of = functools.partial(metrics_of, model, loss)

    def __call__(self, state: TrainState, frozen: dict) -> dict[str, float]:
        """The means of the metrics, as Python numbers."""
        batches = pipeline.in_order(self._rows, self._size, self._mesh, self._form)
        parts = [self._metrics_of(state.params, batch, frozen) for batch in batches]
        return mean(jax.tree.map(lambda *xs: sum(xs), *jax.device_get(parts)))

    def look(self, state: TrainState, frozen: dict) -> None:
        """Traces one batch on shapes, so that what cannot work ends here."""
        _, parts = pipeline.share(self._mesh)
        first = jax.tree.map(lambda x: x[: self._size // parts], self._rows)
        shapes = pipeline.shapes(first, self._mesh)
        jax.eval_shape(self._metrics_of, state.params, shapes, frozen)


@functools.partial(jax.jit, static_argnums=(0, 1))
def metrics_of(model: Any, loss: LossFn, params: dict, batch: Any, frozen: dict) -> Metrics:
    """A loss's metrics. Equal models and losses (of many seeds, say) share one program."""
    return on_backbone(loss)(model, params, batch, None, frozen)[2]
