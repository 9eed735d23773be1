"""The division into training and test part: a property of each row, whatever else is there."""

from __future__ import annotations

import hashlib
import json

TEST_FRACTION, MOST_TEST_ROWS = 0.05, 1000


def train_test_split(
    rows: list[dict],
    seed: int = 0,
    test_fraction: float = TEST_FRACTION,
    most_test_rows: int = MOST_TEST_ROWS,
) -> tuple[list[dict], list[dict]]:
    """Divides canonical rows by a hash of their first user turn (or text).

    Whether a row is a test row depends on nothing but how it begins and the seed, so any two files
    on the same questions are divided alike. Of a large source fewer test rows are used,
    `most_test_rows` that another hash of how they begin chooses; the others are not trained on
    either. Rows keep their order.
    """
    train, test = [], []
    for row in rows:
        (test if held_out(row, seed, test_fraction) else train).append(row)
    by_hash = sorted(range(len(test)), key=lambda i: draw(test[i], seed))
    return train, [test[i] for i in sorted(by_hash[:most_test_rows])]


def held_out(row: dict, seed: int = 0, test_fraction: float = TEST_FRACTION) -> bool:
    """Whether a row belongs to the test part."""
    return _share(f"{seed} {_opening(row)}") < test_fraction


def draw(row: dict, seed: int = 0) -> float:
    """Of a test row, the number in [0, 1) by which it is used: those with the lowest are."""
    return _share(f"used {seed} {_opening(row)}")


def common_rows(train: list[dict], test: list[dict]) -> int:
    """How many of the test rows say the same as a training row."""
    known = {_said(row) for row in train}
    return sum(_said(row) in known for row in test)


def _said(row: dict) -> str:
    return json.dumps({key: value for key, value in row.items() if key != "record"})


def _share(text: str) -> float:
    """A number in [0, 1) that the text alone decides."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _opening(row: dict) -> str:
    if "text" in row:
        return row["text"]
    turns = row.get("messages") or row["prompt"]
    return next(turn["content"] for turn in turns if turn["role"] == "user")
