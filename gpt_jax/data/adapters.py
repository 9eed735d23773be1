"""Rows of data sets that people know by name -> the layouts that `schemas` reads.

A row is recognised by its columns:

    question, answer                       GSM8K (also SciQ-like sets without `choices`)
    question, ground_truth, ...            GSM8K's model solutions: right ones above wrong ones
    instruction, context, response         Dolly
    instruction, completions[{response}]   UltraFeedback; the ranks are those of the scores
    info{post, ...}, summaries, choice     the TL;DR comparisons, also without `info` around `post`
    post, summary                          the TL;DR demonstrations
    prompt, label (a text)                 the same, as trl and CarperAI write them
    meta_instruction, chat{turn_1, ...}    MOSS, with and without plugins
    user_prompt                            MOSS's prompts
    [text, text, ...]                      MOSS-RLHF: what user and assistant say in turns
    title, paragraphs                      chinese-poetry
    prompt{role, replies}, message_id ...  OpenAssistant: whole trees, see `trees`

What MOSS thinks and commands is said by the assistant; what a plugin answers is context, a turn of
the user's.
"""

from __future__ import annotations

import math
import re
from typing import Any

from gpt_jax.data.messages import NotADemonstration
from gpt_jax.data.values import check_row, kind_of, list_at, text_at
from gpt_jax.errors import UserError

_MARKS = re.compile(r"^\s*<\|[A-Za-z ]+\|>:|<eo[hmctr]>\s*$")
_SILENT = {"", "None"}


def known(row: Any) -> dict | str:
    """The row in a layout that `schemas` reads; of an unknown one, itself.

    Raises:
      UserError: it is no row (see `check_row`), or one of a known data set that is broken.
    """
    if isinstance(row, list) and row and all(isinstance(said, str) for said in row):
        row = {"messages": _in_turns(row)}
    check_row(row)
    if isinstance(row, str):
        return row
    return next((found for adapt in _ADAPTERS if (found := adapt(row)) is not None), row)


def _in_turns(said: list[str]) -> list[dict]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]


def _question(row: dict) -> dict | None:
    if "question" not in row or {"prompt", "messages", "choices"} & set(row):
        return None
    if isinstance(row.get("answer"), str):
        return {"prompt": text_at(row, "question"), "completion": row["answer"]}
    solutions = [
        v for v in row.values() if isinstance(v, dict) and {"solution", "is_correct"} <= v.keys()
    ]
    if "ground_truth" not in row or len(solutions) < 2:
        return None
    return {
        "prompt": text_at(row, "question"),
        "completion": text_at(row, "ground_truth"),
        "completions": [text_at(solution, "solution") for solution in solutions],
        "ranks": [int(not solution["is_correct"]) for solution in solutions],
    }


def _dolly(row: dict) -> dict | None:
    if not {"instruction", "response"} <= row.keys() or {"output", "completions"} & set(row):
        return None
    return {**row, "input": row.get("context") or "", "output": row["response"]}


def _ultrafeedback(row: dict) -> dict | None:
    answers = row.get("completions")
    if "instruction" not in row or not isinstance(answers, list) or "ranks" in row:
        return None
    if not answers:
        raise NotADemonstration("`completions` is empty", "rows without an answer")
    if not all(isinstance(a, dict) and "response" in a for a in answers):
        raise UserError("`completions` must be a list of objects with `response`")
    scores = [_score(answer, number) for number, answer in enumerate(answers, 1)]
    levels = sorted(set(scores), reverse=True)
    replies = [answer["response"] for answer in answers]
    return {
        "prompt": text_at(row, "instruction"),
        "completion": replies[scores.index(levels[0])],
        "completions": replies,
        "ranks": [levels.index(score) for score in scores],
    }


def _score(answer: dict, number: int) -> float:
    """The mean of the four aspects, or else the one score that there is."""
    names = ("fine-grained_score", "overall_score")
    found = next((answer[name] for name in names if answer.get(name) is not None), None)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise UserError(
            f"completion {number} needs a number under `{names[0]}` or `{names[1]}`, not "
            f"{found if isinstance(found, float) else kind_of(found)}"
        )
    return float(found)


def _summary(row: dict) -> dict | None:
    if "prompt" in row:
        told = isinstance(row.get("label"), str) and not {"completion", "chosen"} & set(row)
        return {"prompt": row["prompt"], "completion": row["label"]} if told else None
    about = row["info"] if isinstance(row.get("info"), dict) else row
    if "post" not in about or not {"summaries", "summary"} & set(row):
        return None
    prompt = _post(about)
    if "summary" in row:
        return {"prompt": prompt, "completion": row["summary"]}
    texts = [s.get("text") if isinstance(s, dict) else s for s in list_at(row, "summaries")]
    choice = row.get("choice")
    if isinstance(choice, bool) or choice not in range(len(texts)):
        raise UserError(f"`choice` must be the number of a summary, 0 to {len(texts) - 1}")
    ranks = [int(number != choice) for number in range(len(texts))]
    return {"prompt": prompt, "completions": texts, "ranks": ranks}


def _post(about: dict) -> str:
    """As Stiennon et al. 2020 lay it out for the model (their appendix B.1)."""
    heads = (("SUBREDDIT", "subreddit", "r/"), ("TITLE", "title", ""))
    lines = [f"{head}: {mark}{text_at(about, key)}" for head, key, mark in heads if about.get(key)]
    return "\n".join([*lines, f"POST: {text_at(about, 'post')}", "TL;DR:"])


def _moss(row: dict) -> dict | None:
    if "user_prompt" in row and "prompt" not in row:
        return {"prompt": _said(row, "user_prompt")}
    chat = row.get("chat")
    if not isinstance(chat, dict):
        return None
    numbers = [key.removeprefix("turn_") for key in chat]
    if not chat or numbers != [str(number) for number in range(1, len(chat) + 1)]:
        raise UserError("`chat` must be an object of `turn_1`, `turn_2`, ... in this order")
    turns = [turn for key in chat for turn in _moss_turns(chat[key], key)]
    if isinstance(row.get("meta_instruction"), str):
        turns = [{"role": "system", "content": row["meta_instruction"].strip()}, *turns]
    return {"messages": turns}


def _moss_turns(turn: Any, key: str) -> list[dict]:
    """A question and what follows: thoughts and commands, a plugin's answer, and the reply."""
    if not isinstance(turn, dict) or not {"Human", "MOSS"} <= turn.keys():
        raise UserError(f"`{key}` of `chat` must be an object with `Human` and `MOSS`")
    asked, reply = _said(turn, "Human"), _said(turn, "MOSS")
    named = (("Inner Thoughts", "Inner Thoughts"), ("Commands", "Commands"))
    inner = [
        f"<|{mark}|>: {said}" for mark, name in named if (said := _said(turn, name)) not in _SILENT
    ]
    answered = _said(turn, "Tool Responses")
    turns = [{"role": "user", "content": asked}]
    if answered in _SILENT:
        reply = "\n".join([*inner, f"<|MOSS|>: {reply}"]) if inner else reply
    else:
        turns.append({"role": "assistant", "content": "\n".join(inner)})
        turns.append({"role": "user", "content": f"<|Results|>: {answered}"})
    return [*turns, {"role": "assistant", "content": reply}]


def _said(turn: dict, name: str) -> str:
    """What stands between MOSS's marks."""
    said = turn.get(name) or ""
    if not isinstance(said, str):
        raise UserError(f"`{name}` must be a string, not {kind_of(said)}")
    return _MARKS.sub("", _MARKS.sub("", said)).strip()


def _poem(row: dict) -> dict | None:
    if "paragraphs" not in row or "text" in row:
        return None
    lines = list_at(row, "paragraphs")
    head = [row.get("title"), row.get("author"), *lines]
    if not all(isinstance(line, str) for line in lines):
        raise UserError("`paragraphs` must be a list of strings")
    return {"text": "\n".join(line for line in head if isinstance(line, str) and line.strip())}


_ADAPTERS = (_question, _dolly, _ultrafeedback, _summary, _moss, _poem)
