"""Records of the layouts people know -> the five canonical kinds of rows.

    document       {"text": str}
    demonstration  {"messages": [{"role", "content"}, ...]}, ending with the assistant
    comparison     {"prompt": messages ending with the user, "completions": [K strings],
                    "ranks": [K ints, 0 best, equal = tie], "stopped": [K bools]}, and, where the
                    row says by how much one is better, "degrees": [K floats]
    feedback       {"prompt": messages ending with the user, "completion": string, "label": bool
                    (whether it is a good one), "stopped": bool}
    prompt         {"prompt": messages ending with the user, "record": the row itself}, so that a
                    rule or a verifier sees the answer beside the question

A row's layout is known by its keys:

    text                                a document
    messages                            chat turns {"role", "content"}
    conversations                       chat turns {"from": human | gpt | system, "value"}
    instruction, input, output          Alpaca; `instances` of self-instruct count as input, output
    ... with history                    pairs [user, assistant] that were said before
    system                              beside `conversations` or `instruction`, a system turn
    prompt, completion                  one question, one reply
    ... with label                      the reply, marked good or bad; `stopped` as below
    prompt                              a string, chat turns, or an hh-rlhf transcript
    ... with chosen, rejected           two replies, the better one first; `margin`, by how much
    ... with completions, ranks         K replies; `stopped` (by default all true) says which ended
                                        with the stop token
    chosen, rejected                    two conversations; what they share is the prompt

A reply is a string, a turn, or a list of turns, which may repeat the prompt in front (see
`replies`); a conversation is a list of turns or, only under `prompt`, `chosen` and `rejected`, an
hh-rlhf transcript (see `transcripts`). No turn's content is ever read as a transcript.

Rows of well-known data sets that have other columns are first brought into one of these layouts
(see `adapters`).
"""

import math
import reprlib

from gpt_jax.data import adapters, transcripts
from gpt_jax.data.messages import (
    NotADemonstration,
    check_prompt,
    check_turns,
    read_text,
    read_turns,
)
from gpt_jax.data.replies import conversation, follow, follow_transcripts
from gpt_jax.data.values import check_row, keys_of, kind_of, list_at, object_of, text_at
from gpt_jax.errors import UserError


def to_document(row) -> dict:
    """A text as a document.

    Raises:
      UserError: there is none in the row.
    """
    check_row(row)
    row = adapters.known(row)
    if isinstance(row, str):
        row = {"text": row}
    return {"text": text_at(object_of(row), "text")}


def to_demonstration(row) -> dict:
    """A conversation that ends with the assistant.

    Raises:
      NotADemonstration: the reply is empty, or the row's `label` is false or 0 (KTO's mark).
      UserError: the row has none of the layouts, or is broken.
    """
    row = object_of(adapters.known(row))
    if "messages" in row or "conversations" in row:
        turns = _turns(row)
    elif "prompt" in row and "completion" in row:
        turns = _answered(_prompt(row), row["completion"], "completion")
    elif "instruction" in row:
        turns = _answered(_prompt(row), _first_instance(row).get("output"), "output")
    else:
        raise UserError(
            f"a demonstration needs `messages`, `prompt` and `completion`, or "
            f"`instruction` and `output`, but the keys are {keys_of(row)}"
        )
    if row.get("label") in (0, "0", "false", "False"):  # or false; tables have texts only
        raise NotADemonstration("`label` is false: this reply is marked as a bad one")
    if turns[-1]["role"] != "assistant":
        raise UserError(f"a demonstration ends with the assistant, not with {turns[-1]['role']!r}")
    return {"messages": check_turns(turns)}


def to_comparison(row) -> dict:
    """A prompt with K >= 2 ranked completions; equal ones are a tie.

    Raises:
      UserError: the row has none of the layouts, or is broken.
    """
    row = object_of(adapters.known(row))
    if "completions" in row or "ranks" in row:
        given, ranks = list_at(row, "completions"), list_at(row, "ranks")
        stopped = list_at(row, "stopped") if "stopped" in row else [True] * len(given)
        replies = {f"completion {number}": reply for number, reply in enumerate(given, 1)}
        degrees = {}
    elif "chosen" in row and "rejected" in row:
        replies, ranks = {key: row[key] for key in ("chosen", "rejected")}, [0, 1]
        stopped = [row.get("chosen_stopped", True), row.get("rejected_stopped", True)]
        degrees = _degrees(row)
    else:
        raise UserError(
            f"a comparison needs `chosen` and `rejected`, or `completions` and "
            f"`ranks`, but the keys are {keys_of(row)}"
        )
    if len(replies) < 2 or not len(replies) == len(ranks) == len(stopped):
        raise UserError(
            f"a comparison needs at least 2 completions and as many ranks, but there "
            f"are {len(replies)} completions, {len(ranks)} ranks and "
            f"{len(stopped)} marks in `stopped`"
        )
    if not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks):
        raise UserError("every rank must be a whole number, 0 for the best")
    if not all(isinstance(mark, bool) for mark in stopped):
        raise UserError("every mark in `stopped` must be true or false")
    if "completions" in row or "ranks" in row or _PROMPTS & set(row):
        prompt, completions = follow(_prompt(row), replies)
    else:
        prompt, completions = _follow_unprompted(replies)
    ranks = _equal_ranks(list(zip(completions, stopped, strict=True)), ranks)
    levels = sorted(set(ranks))
    return {
        "prompt": check_prompt(prompt),
        "completions": completions,
        "ranks": [levels.index(rank) for rank in ranks],
        "stopped": stopped,
        **degrees,
    }


def to_feedback(row) -> dict:
    """A prompt with one completion that is marked good or bad.

    Raises:
      UserError: the row has another layout, or is broken.
    """
    row = object_of(adapters.known(row))
    if not {"prompt", "completion", "label"} <= set(row):
        raise UserError(
            f"feedback needs `prompt`, `completion` and `label`, but the keys are {keys_of(row)}"
        )
    label, stopped = MARKS.get(str(row["label"]).lower()), row.get("stopped", True)
    if label is None:
        raise UserError(f"`label` must be true or false, not {reprlib.repr(row['label'])}")
    if not isinstance(stopped, bool):
        raise UserError("`stopped` must be true or false")
    prompt, [text] = follow(_prompt(row), {"completion": row["completion"]})
    if not text.strip() and not stopped:
        raise UserError("`completion` is empty and not `stopped`: there is nothing to learn from")
    return {"prompt": check_prompt(prompt), "completion": text, "label": label, "stopped": stopped}


def to_prompt(row) -> dict:
    """The turns up to the assistant's next reply, from any layout that has a prompt, and the row.

    Raises:
      UserError: the row has none of the layouts, or is broken.
    """
    if isinstance(row, str):
        row = {"prompt": row}
    if isinstance(row, list):
        row = adapters.known(row)
    return {"prompt": _prompt(object_of(adapters.known(row))), "record": row}


# Parts of rows.

# Of `label`, as tables write it, too, which have texts and floats only.
MARKS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}

_PROMPTS = {"prompt", "instruction", "messages", "conversations"}


def _prompt(row: dict) -> list[dict]:
    if "prompt" in row:
        turns = _parse_prompt(row)
    elif "instruction" in row:
        turns = [*_history(row), {"role": "user", "content": _instruction(row)}]
    elif "messages" in row or "conversations" in row:
        turns = _turns(row)
        turns = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    elif "chosen" in row and "rejected" in row:
        turns, _ = _follow_unprompted({key: row[key] for key in ("chosen", "rejected")})
    else:
        raise UserError(
            f"a prompt needs one of `prompt`, `instruction`, `messages` or "
            f"`conversations`, but the keys are {keys_of(row)}"
        )
    return check_prompt(turns)


def _parse_prompt(row: dict) -> list[dict]:
    if isinstance(row["prompt"], list):
        return read_turns(row["prompt"], "prompt")
    text = text_at(row, "prompt")
    if transcripts.is_transcript(text):
        return transcripts.without_silence(transcripts.parse(text))
    return [{"role": "user", "content": text}]


def _history(row: dict) -> list[dict]:
    """What LLaMA-Factory's Alpaca rows say before the instruction."""
    pairs = row.get("history") or []
    if not isinstance(pairs, list) or not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise UserError("`history` must be a list of pairs [user, assistant]")
    roles = ["user", "assistant"] * len(pairs)
    said = [text for pair in pairs for text in pair]
    turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    return [*_system(row), *(read_turns(turns, "history") if turns else [])]


def _system(row: dict) -> list[dict]:
    text = read_text(row.get("system") or "", "`system`")
    return [{"role": "system", "content": text}] if text.strip() else []


def _instruction(row: dict) -> str:
    given = _first_instance(row).get("input") or ""
    if not isinstance(given, str):
        raise UserError(f"`input` must be a string, not {kind_of(given)}")
    if row["instruction"] == "":  # as a translation may have left it
        if given.strip():
            return given
        raise NotADemonstration("`instruction` is empty", "rows that ask nothing")
    text = text_at(row, "instruction")
    return f"{text}\n\n{given}" if given.strip() else text


def _degrees(row: dict) -> dict:
    """How much better the chosen reply is, where the row says so in `margin`."""
    margin = row.get("margin")
    if margin is None:
        return {}
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
        raise UserError(f"`margin` must be a number, not {margin!r}")
    return {"degrees": [float(margin), 0.0]}


def _first_instance(row: dict) -> dict:
    """Self-instruct keeps input and output in a list of instances."""
    if "instances" not in row:
        return row
    instances = list_at(row, "instances")
    if not instances or not isinstance(instances[0], dict):
        raise UserError("`instances` must be a list of objects")
    return instances[0]


def _turns(row: dict) -> list[dict]:
    key = "messages" if "messages" in row else "conversations"
    turns = read_turns(list_at(row, key), key)
    in_front = _system(row) if key == "conversations" and turns[0]["role"] != "system" else []
    return [*in_front, *turns]


def _answered(prompt: list[dict], reply, key: str) -> list[dict]:
    """The prompt's turns and a reply's. A list of turns stays whole; any of it may be learned."""
    if isinstance(reply, list):
        return conversation(prompt, reply, key)
    prompt, [text] = follow(prompt, {key: reply})
    if not text.strip():
        raise NotADemonstration(f"`{key}` is empty")
    return [*prompt, {"role": "assistant", "content": text}]


def _follow_unprompted(replies: dict) -> tuple[list[dict], list[str]]:
    if any(isinstance(reply, list) for reply in replies.values()):
        return follow([], replies)
    return follow_transcripts(replies)


def _equal_ranks(replies: list[tuple[str, bool]], ranks: list[int]) -> list[int]:
    """Ranks in which equal replies are equally good.

    Raises:
      UserError: a third reply lies between two equal ones, so that the ranks contradict themselves.
    """
    best = list(ranks)
    for reply in set(replies):
        of_reply = [rank for rank, other in zip(ranks, replies, strict=True) if other == reply]
        low, high = min(of_reply), max(of_reply)
        if low == high:
            continue
        for number, (rank, other) in enumerate(zip(ranks, replies, strict=True)):
            if other == reply:
                best[number] = low
            elif low <= rank <= high:
                raise UserError(
                    f"two completions are equal, but by the ranks completion {number + 1} is "
                    f"no worse than one and no better than the other"
                )
    return best
