"""Who ranks the answers: the truth, people, or people elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from gpt_jax.data.config import DataConfig
from gpt_jax.data.local_files import fingerprint
from gpt_jax.data.ranking import NOTICEABLE
from gpt_jax.errors import UserError
from gpt_jax.labels.comparisons import Ranks
from gpt_jax.labels.gold import gold_ranks
from gpt_jax.labels.people import RANKS, read_ranks
from gpt_jax.ranges import Positive, PositiveFloat, Range, check_ranges
from gpt_jax.tasks.prompts import task_of

GOLD, PEOPLE = "gold", "people"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """How many answers are ranked, and by whom."""

    labeler: str = GOLD
    """Who ranks: `gold` (the task's own score), `people` (a page for the browser), or a file
    that the page has saved; of two, joined by a comma, it is told how often they agree."""
    agreement: Annotated[float, Range(0.5, 1.0, open_low=True)] | None = None
    """How often two gold labelers agree on a pair (InstructGPT's agreed on 0.73); None: always."""
    noticeable: PositiveFloat = NOTICEABLE
    """Gold scores that lie closer together than this are a tie."""
    prompts: Positive = 4500
    """Different prompts to train on, at the most."""
    held_out: Positive = 300
    """Different held-out prompts, at the most."""
    answers: Annotated[int, Range(2, 9)] = 4
    """To each prompt."""
    max_new_tokens: Positive = 36
    """The longest answer, in tokens."""

    def __post_init__(self):
        check_ranges(self)


def check_labeler(recipe: Label, data: DataConfig) -> None:
    """Sees to it that the labeler can rank.

    Raises:
      UserError: if nobody knows how good an answer is, or a file that is named is not there.
    """
    known = all(data.in_microworld("prompts", split) for split in ("train", "test"))
    if recipe.labeler == GOLD and not known:
        raise UserError(
            "nobody knows how good an answer to these prompts is, so --label.labeler gold cannot "
            "rank any; give --label.labeler people, or ready-made comparisons (--data.comparisons)"
        )
    if recipe.agreement is not None and recipe.labeler != GOLD:
        raise UserError(
            f"--label.agreement is that of gold labelers, not of {recipe.labeler}; leave it out"
        )
    paths = _named(recipe)
    if len(paths) > 2:
        raise UserError(f"--label.labeler names {len(paths)} files; give one, or two")
    for path in paths:
        if not path.is_file():
            raise UserError(
                f"--label.labeler {recipe.labeler}: there is no file {path}; give gold, people, or "
                "one or two files that the page has saved"
            )


def ranked_by(recipe: Label, folder: Path) -> list[str]:
    """What the ranks are from: `gold`, or a number for each file with people's."""
    if recipe.labeler == GOLD:
        return [GOLD]
    return [fingerprint(path) for path in _files(recipe, folder)]


def rank(
    recipe: Label, folder: Path, data: DataConfig, rows: Sequence[dict], seed: int
) -> list[Ranks]:
    """The ranks of one labeler, or of two; none where people have not ranked yet.

    Args:
      recipe: says who ranks.
      folder: of the labeling, where people's file is looked for.
      data: whose prompts these are.
      rows: answers, as `read_answers` gives them.
      seed: of the gold labelers' noise.
    """
    if recipe.labeler == GOLD:
        how = (recipe.agreement, recipe.noticeable)
        return gold_ranks(rows, task_of(data).score, *how, seed)
    return [read_ranks(path, rows) for path in _files(recipe, folder)]


def _named(recipe: Label) -> list[Path]:
    if recipe.labeler in (GOLD, PEOPLE):
        return []
    return [Path(path) for path in recipe.labeler.split(",")]


def _files(recipe: Label, folder: Path) -> list[Path]:
    own = folder / RANKS
    if recipe.labeler == PEOPLE:
        return [own] if own.is_file() else []
    return _named(recipe)
