"""Requests on their way through an engine, and what the host knows of its slots."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.generate.drawing import Drawing
from gpt_jax.generate.sampling import Sampling

ALL = np.uint32(0xFFFFFFFF)


class Constraint(Protocol):
    """What a completion must look like, one token after another."""

    def allowed(self) -> np.ndarray:
        """uint32 words: bit i of word w is whether token 32 w + i may come next."""

    def take(self, token: int) -> None:
        """The token that came."""


@dataclasses.dataclass(eq=False)
class Request:
    """One completion on its way; the engine fills in what stands below the line.

    Attributes:
      ids: the prompt.
      sampling: how to draw; `n` and `stop` are the caller's business, the stop strings above all.
      name: of the draw in the random stream, uint32.
      constraint: what the completion must look like, or None.
      ----
      tokens, logprobs, tops: what was drawn, as `Completion` has them.
      finish_reason: None as long as it goes on; "cancelled" if it was withdrawn, "failed" if its
        constraint went wrong.
      error: what went wrong, then.
      shared: how many tokens of the prompt were copied and not read.
    """

    ids: Sequence[int]
    sampling: Sampling
    name: int = 0
    constraint: Constraint | None = None
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    tops: list[list[tuple[int, float]]] = dataclasses.field(default_factory=list)
    finish_reason: Literal["stop", "length", "cancelled", "failed"] | None = None
    error: str | None = None
    shared: int = 0


@dataclasses.dataclass(eq=False)
class Slot:
    """The host's knowledge of a slot.

    Attributes:
      request: whose it is; None: free.
      read: how many tokens of its prompt are in the cache; None: what is there is of another.
      used: when it was taken or left last.
      source: where what is read of its prompt lies, as `memory` has it: in which slot's row, or in
        which pages.
      known: of rows: the tokens that are in the cache, or the first of them.
      pages, begun: of pages: those that it uses, and how many tokens they had at the beginning.
    """

    request: Request | None = None
    read: int | None = None
    used: int = 0
    source: np.ndarray | None = None
    known: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    pages: list[int] = dataclasses.field(default_factory=list)
    begun: int = 0

    @property
    def reading(self) -> bool:
        """Whether its prompt is still to be read."""
        return self.request is not None and (self.read or 0) < len(self.request.ids)

    @property
    def running(self) -> bool:
        """Whether it draws."""
        return self.request is not None and not self.reading


def allowed(request: Request) -> np.ndarray | np.uint32:
    """Which tokens may come next; if the constraint goes wrong, that is the request's end alone."""
    if request.constraint is None:
        return ALL
    try:
        return request.constraint.allowed()
    except UserError as error:
        request.error = str(error)
        return ALL


def drawing_of(settings: Sequence[Sampling]) -> Drawing:
    """How rows draw, without their keys."""

    def column(name: str, dtype: type = np.float32) -> np.ndarray:
        return np.array([getattr(sampling, name) for sampling in settings], dtype)

    return Drawing(
        keys_B=None,
        temperature_B=column("temperature"),
        top_k_B=column("top_k", np.int32),
        top_p_B=column("top_p"),
        min_p_B=column("min_p"),
        repetition_B=column("repetition_penalty"),
        presence_B=column("presence_penalty"),
        frequency_B=column("frequency_penalty"),
        tops_B=column("logprobs", np.int32) > 0,
    )
