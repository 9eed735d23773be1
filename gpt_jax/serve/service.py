"""What is served, and how a request is turned down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gpt_jax.generate.constraints import Constrain
from gpt_jax.generate.embeddings import Embedder
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
      embed: makes vectors of its hidden states, or None.
    """

    worker: Worker
    constrain: Constrain | None = None
    embed: Embedder | None = None


class Service(NamedTuple):
    """What the routes know.

    Attributes:
      served: models by name; the first is asked where no name is given.
      metrics: what is counted.
      api_key: what every client must show; None: nothing.
      vote: is given what the page's users preferred.
      encoders: by name, what makes vectors and no text.
    """

    served: dict[str, Served]
    metrics: Metrics
    api_key: str | None = None
    vote: Callable[[dict], None] | None = None
    encoders: Mapping[str, Embedder] = {}

    def chosen(self, name: str | None) -> tuple[str, Served]:
        """The model that is asked for, by its name or because no name is given."""
        name = name or next(iter([*self.served, *self.encoders]))
        if name in self.encoders:
            raise Refused(404, f"{name} makes vectors and no text; ask it at /v1/embeddings")
        if name not in self.served:
            raise self._missing(name)
        return name, self.served[name]

    def embedder(self, name: str | None) -> tuple[str, Embedder]:
        """What makes the vectors; where no name is given, an encoder if there is one."""
        name = name or next(iter([*self.encoders, *self.served]))
        if name not in self.encoders and name not in self.served:
            raise self._missing(name)
        found = self.encoders[name] if name in self.encoders else self.served[name].embed
        if found is None:
            raise Refused(404, f"{name} makes no embeddings")
        return name, found

    def _missing(self, name: str) -> Refused:
        there = ", ".join([*self.served, *self.encoders])
        return Refused(404, f"there is no model {name!r}; there is {there}")
