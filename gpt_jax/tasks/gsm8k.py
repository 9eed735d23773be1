"""GSM8K: word problems of grade school (Cobbe et al. 2021), few-shot with chains of thought."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpt_jax.tasks.benchmark import Writing
from gpt_jax.tasks.choices import field

MARKED = re.compile(r"#### (-?[0-9.,]+)")
NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def question(row: dict, shots: Sequence[dict]) -> str:
    """The question behind others with their solutions."""
    shown = "".join(f"{_asked(shot)} {field(shot, 'answer', str)}\n\n" for shot in shots)
    return shown + _asked(row)


def _asked(row: dict) -> str:
    return f"Question: {field(row, 'question', str)}\nAnswer:"


def grade(row: dict, texts: Sequence[str]) -> dict[str, float]:
    """Whether the first answer is right, and whether the most frequent one is.

    "strict" wants the number behind "####", "flexible" takes the last number of the text, as
    lm-evaluation-harness does. With several answers "majority" is self-consistency (Wang et al.
    2023) on the flexible ones.
    """
    right = _plain(MARKED.findall(field(row, "answer", str))[-1])
    marked = MARKED.findall(texts[0])
    last = [_plain(found[-1]) for text in texts if (found := NUMBER.findall(text))]
    first = NUMBER.findall(texts[0])
    grades = {
        "strict": float(bool(marked) and _plain(marked[0]) == right),
        "flexible": float(bool(first) and _plain(first[-1]) == right),
    }
    if len(texts) > 1:
        grades["majority"] = float(bool(last) and max(last, key=last.count) == right)
    return grades


def _plain(number: str) -> str:
    """A number as it is compared."""
    plain = number.replace(",", "").replace("$", "").rstrip(".")
    try:
        return f"{float(plain):g}" if len(plain) < 15 else plain
    except ValueError:  # "1.2.3" is no number, and equals none
        return plain


GSM8K = Writing(
    "gsm8k",
    "hf:openai/gsm8k/main",
    question,
    grade,
    stop=("Question:", "</s>", "<|im_end|>"),
    max_new_tokens=256,
    shots=5,
)
