"""The `tokenizers` library's object behind a Tokenizer, made to read words as words.

What a file describes is for reading whole texts in which special tokens are meant. Here words and
tokens are kept apart: a text never becomes a special token, and a text in the middle of another
gets no space in front, where a vocabulary has one for the first word.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Set
from typing import NamedTuple

import tokenizers

from gpt_jax.errors import UserError


class Encoders(NamedTuple):
    """Three ways to read a text.

    Attributes:
      first: at the beginning.
      behind: right behind a special token.
      inside: in the middle of a text.
      guarded: the ids that none of them may give.
    """

    first: tokenizers.Tokenizer
    behind: tokenizers.Tokenizer
    inside: tokenizers.Tokenizer
    guarded: frozenset[int]


def make_encoders(backend: tokenizers.Tokenizer, tokens: Set[str], marks: Set[str]) -> Encoders:
    """The encoders of a backend.

    Args:
      backend: as its file describes it.
      tokens: the special tokens, some of which the file may not mark as such.
      marks: those of them that mean something; a character that the vocabulary lacks must not
        become one, as happens where one is the unknown token, too.
    """
    described = json.loads(backend.to_str())
    model = described["model"]
    changed = False
    for added in described["added_tokens"]:
        if added["content"] in tokens and not added["special"]:
            added["special"] = changed = True
    unknown = model.get("unk_token")
    if unknown in marks and model["type"] == "BPE":
        model["unk_token"], changed = None, True
    first = tokenizers.Tokenizer.from_str(json.dumps(described)) if changed else backend
    first.encode_special_tokens = True
    ids = {backend.token_to_id(token) for token in tokens - ({unknown} - marks)}
    spaceless, only_first = _without_space(described)
    inside = first
    if spaceless != described:
        inside = tokenizers.Tokenizer.from_str(json.dumps(spaceless))
        inside.encode_special_tokens = True
    return Encoders(first, inside if only_first else first, inside, frozenset(ids))


def _without_space(described: dict) -> tuple[dict, bool]:
    """The same without a space in front, and whether only the first of all words has one."""
    changed = described | copy.deepcopy(
        {key: described.get(key) for key in ("normalizer", "pre_tokenizer")}
    )
    only_first = False
    for part in _parts(changed, "pre_tokenizer", "pretokenizers"):
        if part["type"] == "Metaspace":
            only_first |= part.get("prepend_scheme") == "first"
            part["prepend_scheme"] = "never"
        elif part["type"] == "ByteLevel":
            part["add_prefix_space"] = False
    parts = _parts(changed, "normalizer", "normalizers")
    kept = [part for part in parts if part["type"] != "Prepend"]
    if kept != parts:
        changed["normalizer"] = {"type": "Sequence", "normalizers": kept}
    return changed, only_first


def _parts(described: dict, kind: str, plural: str) -> list[dict]:
    whole = described.get(kind)
    if not whole:
        return []
    return whole[plural] if whole["type"] == "Sequence" else [whole]


def encode(encoder: tokenizers.Tokenizer, guarded: Set[int], text: str) -> list[int]:
    """The ids of a text, none of them guarded.

    A vocabulary may hold a special token as a word, too. Where words make one, it is read letter
    by letter.

    Raises:
      UserError: if even a letter is one.
    """
    ids = encoder.encode(text, add_special_tokens=False).ids
    if guarded.isdisjoint(ids):
        return ids
    ids = [i for c in text for i in encoder.encode(c, add_special_tokens=False).ids]
    if not guarded.isdisjoint(ids):
        raise UserError(
            f"this tokenizer reads a letter of the text {text[:40]!r} as a special token; take a "
            "vocabulary in which special tokens are no words"
        )
    return ids


def missing_bytes(backend: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The bytes of valid text that a byte-level vocabulary has no token for; it leaves them out."""
    described = json.loads(backend.to_str())
    model, parts = described["model"], _parts(described, "pre_tokenizer", "pretokenizers")
    if model["type"] != "BPE" or not any(part["type"] == "ByteLevel" for part in parts):
        return ()
    letters = dict(zip(_BYTES, _letters(), strict=True))
    return tuple(b for b in _BYTES if b not in _NEVER and letters[b] not in model["vocab"])


_BYTES = range(256)
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}  # in no UTF-8


def _letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it can be seen, else the next one from 256 on."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    unseen = iter(range(256, 512))
    return [chr(b if b in seen else next(unseen)) for b in _BYTES]
