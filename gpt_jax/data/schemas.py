"""Records of the layouts people know -> the four canonical kinds of rows.

    document       {"text": str}
    demonstration  {"messages": [{"role", "content"}, ...]}, ending with the assistant
    comparison     {"prompt": messages ending with the user, "completions": [K strings],
                    "ranks": [K ints, 0 best, equal = tie], "stopped": [K bools]}
    prompt         {"prompt": messages ending with the user}

A row's layout is known by its keys:

    text                                a document
    messages                            chat turns {"role", "content"}
    conversations                       chat turns {"from": human | gpt | system, "value"}
    instruction, input, output          Alpaca; `instances` of self-instruct count as input, output
    prompt, completion                  one question, one reply
    prompt                              a string, chat turns, or an hh-rlhf transcript
    ... with chosen, rejected           two replies, the better one first
    ... with completions, ranks         K replies; `stopped` (by default all true) says which ended
                                        with the stop token
    chosen, rejected                    two hh-rlhf transcripts; what they share is the prompt

An hh-rlhf transcript alternates "\\n\\nHuman: ..." and "\\n\\nAssistant: ...".
"""

import os
import re

from gpt_jax.errors import UserError

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


class NotADemonstration(UserError):
    """A well-formed row from which nobody should learn: an empty reply, or one marked as bad."""


def to_document(row) -> dict:
    """A text as a document. Raises UserError if there is none."""
    if isinstance(row, str):
        row = {"text": row}
    return {"text": _string(row, "text")}


def to_demonstration(row) -> dict:
    """A conversation that ends with the assistant.

    Raises:
      NotADemonstration: the reply is empty, or the row's `label` is false (KTO's mark).
      UserError: the row has none of the layouts, or is broken.
    """
    _check_dict(row)
    if "messages" in row or "conversations" in row:
        turns = _turns(row)
    elif "prompt" in row and "completion" in row:
        turns = [*to_prompt(row)["prompt"], _reply(row["completion"], "completion")]
    elif "instruction" in row:
        turns = [*to_prompt(row)["prompt"], _reply(_first_instance(row).get("output"), "output")]
    else:
        raise UserError(
            f"a demonstration needs `messages`, `prompt` and `completion`, or "
            f"`instruction` and `output`, but the keys are {_keys(row)}"
        )
    if row.get("label") is False:
        raise NotADemonstration("`label` is false: this reply is marked as a bad one")
    if turns[-1]["role"] != "assistant":
        raise UserError(f"a demonstration ends with the assistant, not with {turns[-1]['role']!r}")
    return {"messages": _check_order(turns)}


def to_comparison(row) -> dict:
    """A prompt with K >= 2 ranked completions; a pair of equal texts is a tie."""
    _check_dict(row)
    if "completions" in row or "ranks" in row:
        completions, ranks = _list(row, "completions"), _list(row, "ranks")
        stopped = _list(row, "stopped") if "stopped" in row else [True] * len(completions)
        prompt = to_prompt(row)["prompt"]
    elif "chosen" not in row or "rejected" not in row:
        raise UserError(
            f"a comparison needs `chosen` and `rejected`, or `completions` and "
            f"`ranks`, but the keys are {_keys(row)}"
        )
    elif {"prompt", "conversations", "instruction"} & set(row):
        prompt = to_prompt(row)["prompt"]
        completions = [_content(row[key], key) for key in ("chosen", "rejected")]
        ranks = [0, 1]
        stopped = [row.get("chosen_stopped", True), row.get("rejected_stopped", True)]
    else:
        prompt, completions = _split_transcripts(row)
        ranks, stopped = [0, 1], [True, True]
    if len(completions) < 2 or not len(completions) == len(ranks) == len(stopped):
        raise UserError(
            f"a comparison needs at least 2 completions and as many ranks, but there "
            f"are {len(completions)} completions, {len(ranks)} ranks and "
            f"{len(stopped)} marks in `stopped`"
        )
    if not all(isinstance(text, str) for text in completions):
        raise UserError("every completion must be a string")
    if not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks):
        raise UserError("every rank must be a whole number, 0 for the best")
    if not all(isinstance(mark, bool) for mark in stopped):
        raise UserError("every mark in `stopped` must be true or false")
    if len({(text, mark) for text, mark in zip(completions, stopped, strict=True)}) == 1:
        ranks = [0] * len(ranks)
    levels = sorted(set(ranks))
    return {
        "prompt": prompt,
        "completions": completions,
        "ranks": [levels.index(rank) for rank in ranks],
        "stopped": stopped,
    }


def to_prompt(row) -> dict:
    """The turns up to the assistant's next reply, from any layout that has a prompt."""
    if isinstance(row, str):
        row = {"prompt": row}
    _check_dict(row)
    if "prompt" in row:
        turns = _parse_prompt(row["prompt"])
    elif "instruction" in row:
        text, given = _string(row, "instruction"), _first_instance(row).get("input") or ""
        turns = [{"role": "user", "content": f"{text}\n\n{given}" if given.strip() else text}]
    elif "messages" in row or "conversations" in row:
        turns = _turns(row)
        turns = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    elif "chosen" in row and "rejected" in row:
        turns, _ = _split_transcripts(row)
    else:
        raise UserError(
            f"a prompt needs one of `prompt`, `instruction`, `messages` or "
            f"`conversations`, but the keys are {_keys(row)}"
        )
    if not turns or turns[-1]["role"] != "user":
        raise UserError("a prompt must end with a turn of the user")
    return {"prompt": _check_order(turns)}


# Parts of rows.


def _check_dict(row) -> None:
    if not isinstance(row, dict):
        raise UserError(f"a row must be a JSON object, not {type(row).__name__}")


def _keys(row) -> str:
    return ", ".join(f"`{key}`" for key in row) or "none"


def _string(row, key: str) -> str:
    _check_dict(row)
    if key not in row:
        raise UserError(f"`{key}` is missing; the keys are {_keys(row)}")
    if not isinstance(row[key], str):
        raise UserError(f"`{key}` must be a string, not {type(row[key]).__name__}")
    if not row[key].strip():
        raise UserError(f"`{key}` is empty")
    return row[key]


def _list(row: dict, key: str) -> list:
    if not isinstance(row.get(key), list):
        raise UserError(f"`{key}` must be a list; the keys are {_keys(row)}")
    return row[key]


def _first_instance(row: dict) -> dict:
    """Self-instruct keeps input and output in a list of instances."""
    if "instances" not in row:
        return row
    instances = _list(row, "instances")
    if not instances or not isinstance(instances[0], dict):
        raise UserError("`instances` must be a list of objects")
    return instances[0]


def _content(value, key: str) -> str:
    """A completion: a string, or a ShareGPT turn. It may be empty."""
    if isinstance(value, dict):
        value = value.get("value", value.get("content"))
    if not isinstance(value, str):
        raise UserError(f"`{key}` must be a string, not {type(value).__name__}")
    return value


def _reply(value, key: str) -> dict:
    text = _content(value, key)
    if not text.strip():
        raise NotADemonstration(f"`{key}` is empty")
    return {"role": "assistant", "content": text}


def _turns(row: dict) -> list[dict]:
    """The turns of `messages` or `conversations`, with canonical roles."""
    key, who, what = (
        ("messages", "role", "content") if "messages" in row else ("conversations", "from", "value")
    )
    turns = []
    for turn in _list(row, key):
        if not isinstance(turn, dict) or turn.get(who) not in ROLES:
            raise UserError(
                f"every turn in `{key}` needs `{who}` (one of {', '.join(ROLES)}) and `{what}`"
            )
        role = ROLES[turn[who]]
        if role == "assistant":
            turns.append(_reply(turn.get(what), what))
        else:
            turns.append({"role": role, "content": _string(turn, what)})
    if not turns:
        raise UserError(f"`{key}` is empty")
    return turns


def _check_order(turns: list[dict]) -> list[dict]:
    """An optional system turn, then user and assistant in turns."""
    roles = [turn["role"] for turn in turns]
    spoken = roles[1:] if roles[0] == "system" else roles
    if spoken != [("user", "assistant")[i % 2] for i in range(len(spoken))] or not spoken:
        raise UserError(
            f"turns must alternate user, assistant, ... after at most one system "
            f"turn, but they are {', '.join(roles)}"
        )
    return turns


def _parse_prompt(value) -> list[dict]:
    if isinstance(value, list):
        return _turns({"messages": value})
    text = _string({"prompt": value}, "prompt")
    if text.startswith(HUMAN):
        return _parse_transcript(text)
    return [{"role": "user", "content": text}]


def _parse_transcript(text: str) -> list[dict]:
    """hh-rlhf turns. Turns without words are left out, and turns of one speaker joined."""
    turns = []
    for mark, content in re.findall(
        r"\n\n(Human|Assistant):(.*?)(?=\n\nHuman:|\n\nAssistant:|\Z)", text, re.DOTALL
    ):
        role, content = "user" if mark == "Human" else "assistant", content.strip()
        if turns and content and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{content}"}
        elif content:
            turns.append({"role": role, "content": content})
    return turns


def _split_transcripts(row: dict) -> tuple[list[dict], list[str]]:
    """Two transcripts -> the turns up to the reply in which they part, and the two replies."""
    texts = [_string(row, "chosen"), _string(row, "rejected")]
    for key, text in zip(("chosen", "rejected"), texts, strict=True):
        if not text.startswith(HUMAN) or ASSISTANT not in text:
            raise UserError(
                f"without a `prompt`, `{key}` must be a transcript that begins with "
                f'"\\n\\nHuman:" and holds "\\n\\nAssistant:"'
            )
    shared = os.path.commonprefix(texts)
    if ASSISTANT not in shared:
        raise UserError("`chosen` and `rejected` share no turn of the user, so there is no prompt")
    end = shared.rindex(ASSISTANT) + len(ASSISTANT)
    # Where they part earlier than in their last reply, only the first differing reply is compared.
    return (
        _parse_transcript(texts[0][:end]),
        [text[end:].split(HUMAN)[0].strip() for text in texts],
    )
