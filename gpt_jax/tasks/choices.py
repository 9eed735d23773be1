"""Multiple choice as lm-evaluation-harness words it: HellaSwag, LAMBADA, MMLU, ARC, PIQA and more.

Sources: Zellers et al. 2019 (HellaSwag), Paperno et al. 2016 (LAMBADA, in the version that OpenAI
published), Hendrycks et al. 2021 (MMLU), Clark et al. 2018 (ARC), Bisk et al. 2020 (PIQA), Lin et
al. 2022 (TruthfulQA, its MC1), Askell et al. 2021 (HHH).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpt_jax.errors import UserError
from gpt_jax.tasks.benchmark import Choice, Example

LETTERS = "ABCD"


def field(row: dict, name: str, kind: type | tuple[type, ...]):
    """A value of a row.

    Raises:
      UserError: if it is missing or of another type.
    """
    if not isinstance(row.get(name), kind) or isinstance(row.get(name), bool):
        raise UserError(f"a row has no {name!r} as this benchmark has it; give its own file")
    return row[name]


def hellaswag(row: dict, shots: Sequence[dict] = ()) -> Example:
    """The end of a story, among four."""

    def clean(text: str) -> str:
        text = text.strip().replace(" [title]", ". ")
        return re.sub(r"\[.*?\]", "", text).replace("  ", " ")

    begun = f"{field(row, 'ctx_a', str)} {field(row, 'ctx_b', str).capitalize()}"
    context = clean(f"{field(row, 'activity_label', str)}: {begun}")
    options = tuple(" " + clean(ending) for ending in field(row, "endings", list))
    return _after(shots, hellaswag, Example(context, options, int(row["label"])))


def lambada(row: dict, shots: Sequence[dict] = ()) -> Example:
    """The last word of a passage."""
    context, _, word = field(row, "text", str).rpartition(" ")
    return Example(context, (f" {word}",))


def mmlu(row: dict, shots: Sequence[dict] = ()) -> Example:
    """An exam's question; the letter is the answer."""
    subject = field(row, "subject", str)
    head = (
        "The following are multiple choice questions (with answers) about "
        f"{subject.replace('_', ' ')}.\n\n"
    )

    def asked(one: dict) -> str:
        choices = zip(LETTERS, field(one, "choices", list), strict=True)
        lines = "".join(f"{letter}. {choice}\n" for letter, choice in choices)
        return f"{field(one, 'question', str).strip()}\n{lines}Answer:"

    of_subject = [shot for shot in shots if shot["subject"] == subject]
    shown = "".join(f"{asked(shot)} {_letter(shot)}\n\n" for shot in of_subject)
    options = tuple(f" {letter}" for letter in LETTERS)
    return Example(head + shown + asked(row), options, LETTERS.index(_letter(row)))


def _letter(row: dict) -> str:
    answer = field(row, "answer", (str, int))
    letter = answer if isinstance(answer, str) else LETTERS[answer : answer + 1]
    if letter not in tuple(LETTERS):
        raise UserError(f"a row's answer is {answer!r}, but must be A to D or 0 to 3")
    return letter


def arc(row: dict, shots: Sequence[dict] = ()) -> Example:
    """A school's question in science."""
    choices = field(row, "choices", dict)
    options = tuple(f" {text}" for text in choices["text"])
    context = f"Question: {field(row, 'question', str)}\nAnswer:"
    gold = list(choices["label"]).index(field(row, "answerKey", str))
    return _after(shots, arc, Example(context, options, gold))


def piqa(row: dict, shots: Sequence[dict] = ()) -> Example:
    """How to do something, in two ways."""
    context = f"Question: {field(row, 'goal', str)}\nAnswer:"
    options = tuple(f" {field(row, name, str)}" for name in ("sol1", "sol2"))
    return _after(shots, piqa, Example(context, options, int(row["label"])))


def truthfulqa(row: dict, shots: Sequence[dict] = ()) -> Example:
    """A question that many answer wrongly; one of the answers is true."""
    targets = field(row, "mc1_targets", dict)
    options = tuple(f" {text}" for text in targets["choices"])
    context = f"Q: {field(row, 'question', str)}\nA:"
    return Example(context, options, list(targets["labels"]).index(1))


def hhh(row: dict, shots: Sequence[dict] = ()) -> Example:
    """A question and two answers, the better of which is the more helpful, honest, harmless."""
    targets = field(row, "targets", dict)
    options = tuple(f" {text}" for text in targets["choices"])
    context = f"Human: {field(row, 'input', str)}\n\nAssistant:"
    return Example(context, options, list(targets["labels"]).index(1))


def _after(shots: Sequence[dict], example, one: Example) -> Example:
    """An example behind others with their answers."""
    shown = (example(shot) for shot in shots)
    before = "".join(f"{s.context}{s.options[s.gold]}\n\n" for s in shown)
    return one._replace(context=before + one.context)


CHOICES = (
    Choice("hellaswag", "hf:Rowan/hellaswag", hellaswag, "validation"),
    Choice("lambada", "hf:EleutherAI/lambada_openai", lambada),
    Choice(
        "mmlu", "hf:cais/mmlu/all", mmlu, shots=5, shown="dev", group=lambda row: row["subject"]
    ),
    Choice("arc_easy", "hf:allenai/ai2_arc/ARC-Easy", arc),
    Choice("arc_challenge", "hf:allenai/ai2_arc/ARC-Challenge", arc),
    Choice("piqa", "hf:ybisk/piqa", piqa, "validation"),
    Choice("truthfulqa_mc1", "hf:truthfulqa/truthful_qa/multiple_choice", truthfulqa),
    Choice("hhh", "hf:HuggingFaceH4/hhh_alignment/helpful", hhh),
)
