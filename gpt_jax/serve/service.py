"""What is served, and how a request is turned down."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpt_jax.generate.constraints import Constrain
from gpt_jax.serve.metrics import Metrics
from gpt_jax.serve.worker import Worker


class Refused(Exception):
    """A request that is not answered: an HTTP status, and why."""

    def __init__(self, status: int, why: str, **headers: str):
        super().__init__(why)
        self.status, self.why, self.headers = status, why, headers


class Served(NamedTuple):
    """One model.

    Attributes:
      worker: runs it.
      constrain: makes constraints for its tokenizer; None: llguidance is not installed.
      embed: `texts -> vectors_BD`, or None.
    """

    worker: Worker
    constrain: Constrain | None = None
    embed: Callable[[list[str]], np.ndarray] | None = None


class Service(NamedTuple):
    """What the routes know.

    Attributes:
      served: models by name; the first is asked where no name is given.
      metrics: what is counted.
      api_key: what every client must show; None: nothing.
      vote: is given what the page's users preferred.
    """

    served: dict[str, Served]
    metrics: Metrics
    api_key: str | None = None
    vote: Callable[[dict], None] | None = None

    def chosen(self, name: str | None) -> tuple[str, Served]:
        """The model that is asked for, by its name or because no name is given."""
        name = name or next(iter(self.served))
        if name not in self.served:
            there = ", ".join(self.served)
            raise Refused(404, f"there is no model {name!r}; there is {there}")
        return name, self.served[name]
