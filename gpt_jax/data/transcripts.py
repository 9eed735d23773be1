"""Transcripts of hh-rlhf (Bai et al. 2022): "\\n\\nHuman: ...\\n\\nAssistant: ..." in one string.

A mark counts only at the start of a line after an empty line, so that a user who writes
"Assistant:" within a turn opens none. Windows line ends are read as plain ones, and the empty line
in front of the first turn may be missing where a turn of the assistant follows.
"""

import itertools
import re

ROLE_OF = {"Human": "user", "Assistant": "assistant"}
MARK = re.compile(r"\n\n(Human|Assistant):")


def is_transcript(text: str) -> bool:
    """Whether a text begins with a human turn's mark and, if not in full, holds an assistant's."""
    text = _plain_lines(text)
    opened = text.startswith("\n\nHuman:")
    return opened or (text.lstrip().startswith("Human:") and "\n\nAssistant:" in text)


def parse(text: str) -> list[dict]:
    """The turns of a transcript, without what is said before the first mark.

    Turns of one speaker in a row are joined. A turn may be silent: its content is then empty.
    """
    _, *parts = MARK.split("\n\n" + _plain_lines(text).lstrip())
    turns = zip(parts[::2], parts[1::2], strict=True)
    return _joined([{"role": ROLE_OF[mark], "content": said.strip()} for mark, said in turns])


def without_silence(turns: list[dict]) -> list[dict]:
    """The turns that have words; those of one speaker between which only silence lay are joined."""
    return _joined([turn for turn in turns if turn["content"]])


def _joined(turns: list[dict]) -> list[dict]:
    grouped = itertools.groupby(turns, key=lambda turn: turn["role"])
    said = ((role, [turn["content"] for turn in group]) for role, group in grouped)
    return [{"role": role, "content": "\n\n".join(filter(None, texts))} for role, texts in said]


def _plain_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
