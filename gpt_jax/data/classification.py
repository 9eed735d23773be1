"""Texts with labels, as GLUE and CLUE have them: rows read, and laid out for a classifier.

    text | sentence                                      one text
    sentence1, sentence2 | premise, hypothesis |         two texts
    question, sentence | question1, question2 |
    question, passage | question, answer
    label                                                a word or a whole number

As in GPT-1 (Radford et al. 2018, 3.3) two texts are read one behind the other with a delimiter
between them, and the class is read at a last token that stands for the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gpt_jax.data import sources
from gpt_jax.data.batches import Tokens, empty_tokens, put
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.microworld import make_world
from gpt_jax.data.microworld.statements import statements
from gpt_jax.data.packing import round_up
from gpt_jax.data.split import train_test_split
from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer

COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "answer"),
    ("text",),
    ("sentence",),
)
ROWS = {"train": 8000, "test": 800}  # of the microworld
DELIMITER = "\n"
CUT = "cut at the end of their first text to fit"


class Labelled(NamedTuple):
    """Texts and their classes.

    Attributes:
      tokens_BT: one text, or two, and the token that is read at, in each row.
      labels_B: int32; a row without a token counts for nothing.
    """

    tokens_BT: Tokens
    labels_B: ArrayLike


def read(spec: str, split: str, held_out: str = "held_out") -> list[dict]:
    """{"texts": one or two, "label": word} of one split of a source.

    Args:
      spec: "microworld" (whether a note says something), a file, or a data set by its name.
      split: train, test, or all of a file. Of a file the test split is a twentieth of its rows.
      held_out: the split of a data set by name that is the test split.

    Raises:
      UserError: naming the row that has no label, or no text under a name that is known.
    """
    if spec == sources.MICROWORLD:
        part = "test" if split == "test" else "train"
        rows = enumerate(statements(make_world(), part, ROWS[part]), 1)
        return [_row(f"{spec}:{number}", row) for number, row in rows]
    of_hub = spec.startswith(("hf:", "tfds:"))
    part = ("train" if split == "train" else held_out) if of_hub else "all"
    found = [_row(place, row) for place, row in sources.raw_rows(spec, "text", part)]
    if of_hub or split == "all":
        return found
    train, test = train_test_split([{"text": row["texts"][0], **row} for row in found])
    return train if split == "train" else test


def _row(place: object, row: object) -> dict:
    columns = next((c for c in COLUMNS if isinstance(row, dict) and set(c) <= set(row)), None)
    if columns is None:
        named = ", ".join("+".join(c) for c in COLUMNS)
        raise UserError(f"{place}: there is no text; name its columns {named}")
    label, texts = row.get("label"), [row[column] for column in columns]
    if not isinstance(label, str | int) or label == "" or (isinstance(label, int) and label < 0):
        raise UserError(f"{place}: the label is {label!r}, but must be a word or a number from 0")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{place}: a text is empty, or none; give one, or leave the row out")
    return {"texts": texts, "label": str(label)}


def classes_of(rows: Sequence[dict]) -> list[str]:
    """The labels there are, in order.

    Raises:
      UserError: if there is but one, or none.
    """
    found = sorted({row["label"] for row in rows})
    if not found:
        raise UserError("there are no rows to train on; give a file with some")
    if len(found) < 2:
        raise UserError(f"all rows have the label {found}; there is nothing to tell apart")
    return found


def lay_out(
    rows: Sequence[dict],
    classes: Sequence[str],
    tokenizer: Tokenizer,
    length: int,
    left_out: LeftOut,
    name: str,
) -> Labelled:
    """Rows of tokens, right-padded; of texts that are too long the end of the first is cut.

    Args:
      rows: of `read`.
      classes: the labels, of which a row's number is that of its class.
      tokenizer: of the model.
      length: the most tokens of a row.
      left_out: counts what was cut.
      name: of the rows there.

    Raises:
      UserError: if there is no row, or one has a label that is none of the classes.
    """
    if not rows:
        raise UserError(f"there are no {name}; give more, or others to test on by --test FILE")
    numbers = {label: number for number, label in enumerate(classes)}
    if strange := next((row["label"] for row in rows if row["label"] not in numbers), None):
        raise UserError(
            f"{name}: the label {strange!r} is none of the training's ({', '.join(classes)}); "
            "give rows with the same labels"
        )
    examples = []
    for row in rows:
        first, *second = (tokenizer.encode(" " + text.strip()) for text in row["texts"])
        behind = [*tokenizer.encode(DELIMITER), *second[0]] if second else []
        room = length - 2 - len(behind)  # beside the tokens that open and end it
        if room < 1:
            raise UserError(
                f"{name}: a second text of {len(behind)} tokens leaves no room in {length}; "
                "shorten it, or give a model with a longer context"
            )
        if len(first) > room:
            left_out.add(CUT, name, len(rows), length)
        opening = tokenizer.document_id
        examples.append([opening, *first[:room], *behind, tokenizer.eos_id])
    width = min(length, round_up(max(map(len, examples))))
    tokens_BT = empty_tokens((len(examples), width), tokenizer.pad_id)
    for b, ids in enumerate(examples):
        put(tokens_BT, np.s_[b, : len(ids)], ids)
    return Labelled(tokens_BT, np.int32([numbers[row["label"]] for row in rows]))
