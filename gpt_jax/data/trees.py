"""OpenAssistant's conversations (Köpf et al. 2023): trees of messages -> rows of one conversation.

Messages come one a row (`message_id, parent_id, role, text, rank`), a file holding whole trees, or
as one tree a row (`prompt: {message_id, role, text, replies: [...]}`). Ranks compare replies to one
message, 0 the best. What is made of them:

    demonstrations  every conversation that goes on with the best reply to each message of the user
    comparisons     every message of the user with two or more ranked replies
    prompts         every conversation of the demonstrations' up to each message of the user

Messages that were deleted, or that reviewers refused, are left out with all that follows them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from gpt_jax.data.messages import NotADemonstration
from gpt_jax.data.values import check_row, shown
from gpt_jax.errors import UserError

Located = tuple[str, Any]
ROLES = {"prompter": "user", "assistant": "assistant"}
_OTHER = NotADemonstration("another reply is ranked above", "replies that another is ranked above")
_YES, _NO = (True, "True", "true"), (False, "False", "false")  # the cells of a .csv are all text
_FLAT = {"message_id", "role", "text"}  # and `parent_id`, which a table's row may lack if empty


def unrolled(located: Iterable[Located], kind: str) -> Iterator[Located]:
    """The rows themselves or, if they are OpenAssistant's messages, rows of conversations.

    Args:
      located: (place, row) pairs of one source.
      kind: text keeps every message as it is.
    """
    located = iter(located)
    first = next(located, None)
    if first is None:
        return
    located = itertools.chain([first], located)
    if kind == "text" or not isinstance(first[1], dict):
        yield from located
    elif first[1].keys() >= _FLAT and "replies" not in first[1]:
        yield from _from_messages(located, kind)
    elif _is_tree(first[1]):
        for place, row in located:
            yield from _from_tree(place, row, kind)
    else:
        yield from located


def _is_tree(row: dict) -> bool:
    return isinstance(row.get("prompt"), dict) and "replies" in row["prompt"]


def _from_messages(located: Iterable[Located], kind: str) -> Iterator[Located]:
    nodes: dict[str, dict] = {}
    places: dict[str, str] = {}
    for place, row in located:
        problem = row if isinstance(row, UserError) else _problem(row, places)
        if problem:
            yield place, problem
            continue
        nodes[row["message_id"]] = {**row, "parent_id": row.get("parent_id") or None, "replies": []}
        places[row["message_id"]] = place
    roots, lost = [], []
    for name, node in nodes.items():
        parent = node["parent_id"]
        if parent is None:
            roots.append(name)
        elif parent in nodes:
            nodes[parent]["replies"].append(node)
        else:
            lost.append((name, f"its `parent_id` {shown(parent)} is not in the file"))
    reached = {node["message_id"] for name in roots for node in _all_below(nodes[name])}
    below_lost = {node["message_id"] for name, _ in lost for node in _all_below(nodes[name])}
    circles = nodes.keys() - reached - below_lost
    yield from ((places[name], UserError(reason)) for name, reason in lost)
    yield from ((places[n], UserError("its parents form a circle")) for n in nodes if n in circles)
    for name in roots:
        yield from _rows(places[name], nodes[name], kind)


def _problem(row: Any, seen: dict[str, str]) -> UserError | None:
    """What is wrong with a message, before its place in a tree is known."""
    try:
        check_row(row)
    except UserError as error:
        return error
    if not isinstance(row, dict) or not row.keys() >= _FLAT:
        return UserError("a message needs `message_id`, `parent_id`, `role` and `text`")
    name, parent = row["message_id"], row.get("parent_id") or None
    if not isinstance(name, str) or not isinstance(parent, str | None):
        return UserError("`message_id` and `parent_id` must be strings")
    if name in seen:
        return UserError(f"the `message_id` {shown(name)} stands twice, first in {seen[name]}")
    return None


def _from_tree(place: str, row: Any, kind: str) -> Iterator[Located]:
    if isinstance(row, UserError):
        yield place, row
        return
    try:
        check_row(row)
        if not isinstance(row, dict) or not _is_tree(row):
            raise UserError("a tree needs `prompt` with `replies`")
        for node in _all_below(row["prompt"]):
            if not isinstance(node, dict) or not isinstance(node.get("replies", []), list):
                raise UserError("a message of a tree must be an object, and `replies` a list")
    except UserError as error:
        yield place, error
        return
    yield from _rows(place, row["prompt"], kind)


def _all_below(node: dict) -> Iterator[dict]:
    """A message and all that follow it, of whatever depth."""
    pending, met = [node], set()
    while pending:
        node = pending.pop()
        if id(node) in met:
            continue
        met.add(id(node))
        yield node
        if isinstance(node, dict) and isinstance(node.get("replies"), list):
            pending += node["replies"]


def _rows(place: str, root: dict, kind: str) -> Iterator[Located]:
    """The rows that a tree gives; a message without text or role is a broken row."""
    pending: list[tuple[dict, list[dict]]] = [(root, [])]
    while pending:
        node, before = pending.pop()
        if not _good(node):
            yield place, NotADemonstration("this message was deleted or refused")
            continue
        role, text = node.get("role"), node.get("text")
        if (
            not isinstance(role, str)
            or role not in ROLES
            or not isinstance(text, str)
            or not text.strip()
        ):
            yield place, UserError("a message needs a `role`, prompter or assistant, and a `text`")
            continue
        turns = [*before, {"role": ROLES[role], "content": text}]
        replies = node.get("replies") or []
        if role == "prompter":
            if kind == "prompts":
                yield place, {"prompt": turns}
            ranked = [reply for reply in replies if _rank(reply) is not None and _good(reply)]
            if kind == "comparisons" and len(ranked) > 1:
                texts = [reply.get("text") for reply in ranked]
                yield (
                    place,
                    {"prompt": turns, "completions": texts, "ranks": [_rank(r) for r in ranked]},
                )
            if kind != "comparisons":  # of the replies to one message the best goes on
                replies = sorted(replies, key=_worse)
                yield from ((place, _OTHER) for _ in replies[1:])
                replies = replies[:1]
        elif kind == "demonstrations" and not any(map(_answered, replies)):
            yield place, {"messages": turns}
        pending += [(reply, turns) for reply in reversed(replies)]


def _worse(reply: dict) -> tuple:
    """Sorts replies, the best one first: refused ones last, before them those without a rank."""
    rank = _rank(reply)
    return not _good(reply), rank is None, rank or 0


def _answered(node: dict) -> bool:
    """Whether the conversation goes on to another reply."""
    return _good(node) and any(_good(reply) for reply in node.get("replies") or [])


def _good(node: dict) -> bool:
    return node.get("deleted") not in _YES and node.get("review_result") not in _NO


def _rank(node: dict) -> int | None:
    rank = node.get("rank")
    if isinstance(rank, float) and rank.is_integer() or isinstance(rank, str) and rank.isdecimal():
        return int(rank)
    return rank if isinstance(rank, int) and not isinstance(rank, bool) else None
