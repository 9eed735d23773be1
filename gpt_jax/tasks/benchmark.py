"""Benchmarks: rows, what is asked of each, and how an answer is graded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple


class Example(NamedTuple):
    """A question whose answers are given, of which the likeliest is taken.

    Attributes:
      context: what stands before the answer.
      options: the answers, each with the space in front of it; of one alone it is asked how
        likely it is, and whether it is what the model would say.
      gold: the number of the right one.
    """

    context: str
    options: tuple[str, ...]
    gold: int = 0


class Choice(NamedTuple):
    """A benchmark that is graded by likelihoods.

    Attributes:
      name: of it.
      hub: where its rows are, where no file is given.
      split: which of the hub's splits has them, with their right answers.
      example: `(row, shots) -> Example`; the shots are rows that are shown with their answers.
      shots: how many are shown, by default.
      shown: in which of the hub's splits those are.
      group: `row -> name` of a part that is reported apart; None: there are none.
      cluster: `row -> id` of what is right or wrong together; None: every row is independent.
    """

    name: str
    hub: str
    example: Callable[[dict, Sequence[dict]], Example]
    split: str = "held_out"
    shots: int = 0
    shown: str = "train"
    group: Callable[[dict], str] | None = None
    cluster: Callable[[dict], Hashable] | None = None


class Writing(NamedTuple):
    """A benchmark whose answers are written and then graded.

    Attributes:
      name, hub, split, shots, shown, group, cluster: as in Choice.
      question: `(row, shots) -> text` that the model goes on with.
      grade: `(row, texts) -> numbers` by their names, of all the answers to one row.
      stop: strings at which an answer ends.
      max_new_tokens: its longest.
      samples: answers to each row.
      temperature: of their sampling.
    """

    name: str
    hub: str
    question: Callable[[dict, Sequence[dict]], str]
    grade: Callable[[dict, Sequence[str]], dict[str, float]]
    stop: tuple[str, ...]
    max_new_tokens: int
    split: str = "held_out"
    shots: int = 0
    shown: str = "train"
    group: Callable[[dict], str] | None = None
    cluster: Callable[[dict], Hashable] | None = None
    samples: int = 1
    temperature: float = 0.0


Benchmark = Choice | Writing
