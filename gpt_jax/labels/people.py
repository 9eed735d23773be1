"""People as labelers: the page on which they rank, and the file that it saves.

`ranks.json` is

    {"answers": "1f0c...", "ranks": {"0": [0, 1, 1, 2], "7": [1, 0, 0, 0]}}

with a number for the answers that were ranked (`answers_number`), and the ranks, 0 for the best, of
the answers to each prompt that has some, by the number of its row in `answers.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

from gpt_jax import files
from gpt_jax.errors import UserError

PAGE, RANKS = "label.html", "ranks.json"
TEMPLATE = Path(__file__).with_name("page.html")


def answers_number(rows: Sequence[dict]) -> str:
    """A number for prompts and answers, so that ranks are not taken for those of others."""
    said = [[row["prompt"], row["completions"], row["stopped"]] for row in rows]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def write_page(folder: Path, rows: Sequence[dict], seed: int) -> Path:
    """Writes `label.html`, which is whole in itself, and returns its path.

    Prompts stand there in an order of their own, so that whoever stops early has seen some of every
    kind and of either split; so do the answers of each. Equal answers are shown once.
    """
    items = []
    for number, row in enumerate(rows):
        places: dict[tuple[str, bool], list[int]] = {}
        for place, answer in enumerate(zip(row["completions"], row["stopped"], strict=True)):
            places.setdefault(answer, []).append(place)
        shown = sorted(places.items(), key=lambda item: item[1])
        random.Random(f"{seed} {number}").shuffle(shown)
        answers = [
            {"text": text, "stopped": stopped, "places": same} for (text, stopped), same in shown
        ]
        if len(answers) > 1:  # there is nothing to rank in one
            items.append({"row": number, "prompt": row["prompt"], "answers": answers})
    random.Random(seed).shuffle(items)
    data = json.dumps({"answers": answers_number(rows), "items": items})
    for sign in "<>&":  # so that no text of a model ends the script that holds it
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    path = Path(folder) / PAGE
    files.write_text(path, TEMPLATE.read_text(encoding="utf-8").replace("DATA", data, 1))
    return path


def read_ranks(path: Path, rows: Sequence[dict]) -> dict[int, list[int]]:
    """The ranks that the page has saved, by the number of the row.

    Raises:
      UserError: naming the file, and the entry that is broken.
    """
    mend = "save it anew from the page"
    found = files.read_json(path, mend)
    if found.get("answers") != answers_number(rows):
        raise UserError(
            f"{path} ranks other answers than those of this folder; give the file that its own "
            f"{PAGE} has saved"
        )
    if not isinstance(found.get("ranks"), dict) or not found["ranks"]:
        raise UserError(f"{path}: `ranks` has no entry; {mend}, with a prompt ranked")
    ranks = {}
    for name, given in found["ranks"].items():
        number = int(name) if name.isascii() and name.isdigit() else -1
        if not 0 <= number < len(rows):
            raise UserError(f"{path}: ranks[{name!r}] is of no prompt; remove it, or {mend}")
        ranks[number] = _check(f"{path}: ranks[{name!r}]", given, rows[number])
    return ranks


def _check(place: str, given: object, row: dict) -> list[int]:
    """Ranks without gaps; equal answers have equal ones."""
    count = len(row["completions"])
    whole = isinstance(given, list) and all(type(rank) is int and rank >= 0 for rank in given)
    if not whole or len(given) != count:
        raise UserError(f"{place} must be {count} whole numbers, 0 for the best; mend or remove it")
    answers = list(zip(row["completions"], row["stopped"], strict=True))
    if len(set(zip(answers, given, strict=True))) > len(set(answers)):
        raise UserError(f"{place} gives two ranks to equal answers; mend or remove it")
    levels = sorted(set(given))
    return [levels.index(rank) for rank in given]
