"""What stages that learn from comparisons have in common: where these come from, and their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from gpt_jax.data.batches import Comparisons
from gpt_jax.data.config import DataConfig
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pad_comparisons, without_empty
from gpt_jax.errors import UserError
from gpt_jax.losses.ranking import pairs_of
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.inputs import label_files
from gpt_jax.train.tuning import Tuned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared(Tuned):
    """The configuration of a stage that learns from comparisons."""

    init_from: str = "runs/sft/default"
    labels_from: tuple[str, ...] = ()
    """Folders of `experiments.label`, whose comparisons are learned from, not those of the data."""
    group_by_length: bool = False
    """Batches are made of comparisons of alike length, and are only as wide as these need: for data
    whose lengths differ much. A few programs are compiled instead of one."""

    def __post_init__(self):
        super().__post_init__()
        if self.labels_from and self.data.comparisons:
            raise UserError("--labels-from and --data.comparisons both name comparisons; give one")


def comparisons_of(config: Compared, split: str) -> list[dict]:
    """What is learned from (`train`), or measured on (`test`)."""
    if not config.labels_from:
        return config.data.read("comparisons", split)
    found = []
    for folder in config.labels_from:
        train, test = (str(path) for path in label_files(folder))
        found += DataConfig(comparisons=train, test_comparisons=test).read("comparisons", split)
    return found


def tensorize(
    rows: Sequence[dict], tokenizer: Tokenizer, longest: int, left_out: LeftOut, name: str
) -> tuple[Comparisons, np.ndarray]:
    """The comparisons that fit, and their numbers; see `pad_comparisons` for the arguments."""
    padded = pad_comparisons(rows, tokenizer, longest, left_out, name)
    return without_empty(padded, name, longest)


def check_pairs(rows: Comparisons, name: str, longest: int, stage: str) -> None:
    """Ends with a UserError where no completion is better than another.

    Args:
      rows: the comparisons that fit.
      name: of them.
      longest: the tokens that they had to fit.
      stage: whose `--STAGE.longest` that is.
    """
    if not pairs_of(rows.ranks_BK).any():
        raise UserError(
            f"of the {name} that fit in {longest} tokens every one is a tie; give a larger "
            f"--{stage}.longest, or others"
        )


def check_words(weights: np.ndarray, present: np.ndarray, numbers: np.ndarray, name: str) -> None:
    """Ends with a UserError where a completion has no token whose likelihood could be learned.

    Args:
      weights: of the loss, with tokens on the last axis.
      present: bool, without that axis: which completions there are.
      numbers: of the records, along the first axis.
      name: of them.
    """
    empty = present & ~(weights > 0).any(axis=-1)
    if empty.any():
        first = numbers[np.argwhere(empty)[0][0]] + 1
        raise UserError(
            f"row {first} of the {name} has a completion of no tokens at all, not even one that "
            "ends it, whose likelihood cannot be learned; leave it out, or mark it as stopped"
        )
