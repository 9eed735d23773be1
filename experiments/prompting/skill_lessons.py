"""The second course of lessons, on the skills of `skills.py`: each asks a teacher who knows.

A teacher also errs where a model is to learn what to do about it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from experiments.prompting import skills
from gpt_jax.data.microworld import puzzles
from gpt_jax.data.microworld.facts import Facts
from gpt_jax.data.microworld.notes import state
from gpt_jax.data.microworld.puzzles import Line, Puzzle
from gpt_jax.prompting.context import direct
from gpt_jax.prompting.demonstrate import demonstrate
from gpt_jax.prompting.tools import CALCULATOR
from gpt_jax.text.chat import Message

ERRS = 0.4  # share of first tries that a teacher gets wrong, to show what is done about it


def whole(kept: list[dict]) -> list[dict]:
    """Conversations without those that are the beginning of a later one."""
    said = [one["messages"] for one in kept]
    return [
        one
        for place, one in enumerate(kept)
        if not any(later[: len(said[place])] == said[place] for later in said[place + 1 :])
    ]


def _reflect(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = puzzles.few_terms(facts, rng, held_out)
    off = rng.choice((-3, -2, -1, 1, 2, 3)) if rng.random() < ERRS else 0

    def teacher(messages: Sequence[Message]) -> str:
        asked = messages[-1]["content"]
        if asked == skills.CHECK:
            return " ".join([*one.steps(), "No." if off else "Yes."])
        return str(int(one.answer) + off) if asked == one.question else one.answer

    return whole(demonstrate(skills.reflecting(one), teacher))


def _tree(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    """All moves at once; one of them; what some are worth that lead to the target, or anywhere."""
    one = puzzles.puzzle(facts, rng, held_out)
    right, judged = _walk(one, rng, True), _walk(one, rng, rng.random() < 0.5)
    lines = _lines(right)
    kept = demonstrate(skills.at_once(one), lambda _: " ".join(lines))
    count = rng.randint(0, puzzles.MOVES)
    asked = skills.PROPOSE.format(question=one.question, steps="\n".join(lines[:count]))
    kept += demonstrate(direct(asked), lambda _: lines[count])
    count = rng.randint(1, puzzles.MOVES + 1)
    number = judged[min(count, puzzles.MOVES) - 1][2]
    worth = one.reaches(number, max(0, puzzles.MOVES - count))
    shown = "\n".join(_lines(judged)[:count])
    asked = skills.VALUE.format(question=one.question, steps=shown)
    return kept + demonstrate(direct(asked), lambda _: "yes" if worth else "no")


def _lines(walked: Sequence[tuple[int, tuple[str, int], int]]) -> list[str]:
    """The moves one by one, and the answer."""
    moves = skills.answered([move for _, move, _ in walked])
    return [*(skills.moved(*step) for step in walked), moves]


def _walk(one: Puzzle, rng: random.Random, right: bool) -> list[tuple[int, tuple[str, int], int]]:
    """(number, move, number) of each move, of those that lead to the target or of any."""
    number, walked = one.start, []
    for left in reversed(range(puzzles.MOVES)):
        nexts = [(move, new) for move in one.moves if (new := one.after(number, move)) is not None]
        if right:
            nexts = [(move, new) for move, new in nexts if one.reaches(new, left)]
        move, new = rng.choice(nexts)
        walked.append((number, move, new))
        number = new
    return walked


def _instruct(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = puzzles.listed(facts, rng, held_out)

    def teacher(messages: Sequence[Message]) -> str:
        guessing = messages[-1]["content"].endswith(skills.QUESTION)
        return one.instruction if guessing else one.answer

    return demonstrate(skills.first_proposal(one), teacher)


def _friends(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = puzzles.two_steps(facts, rng, held_out)
    if rng.random() < 0.5:
        return demonstrate(skills.one_link(one), lambda _: one.fact[2])

    def teacher(messages: Sequence[Message]) -> str:
        return one.friend if "Who is" in messages[-1]["content"] else one.fact[2]

    return demonstrate(skills.two_links(one), teacher)


def _act(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    """By one tool or by two."""
    one = puzzles.prices(facts, rng, held_out)
    some = skills.tools_of(one)[: rng.choice((1, 2, 2))]
    first, second = (f"Action: LookUp[ {thing} ]" for thing in one.asked)
    added = f"Action: {CALCULATOR.name}[ {one.terms[0]} + {one.terms[1]} ]"
    said = iter(
        [first, second, *([added] if len(some) == 2 else []), f"Action: Finish[ {one.answer} ]"]
    )
    return demonstrate(skills.acting(one, some), lambda _: next(said))


def _plan(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = puzzles.prices(facts, rng, held_out)
    tasks = [
        {"id": 1, "tool": "LookUp", "argument": one.asked[0]},
        {"id": 2, "tool": "LookUp", "argument": one.asked[1]},
        {"id": 3, "tool": CALCULATOR.name, "argument": "<1> + <2>"},
    ]
    said = iter([json.dumps(tasks), "[]", one.answer])
    return demonstrate(skills.planning(one), lambda _: next(said))


def _mend(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = puzzles.line(facts, rng, held_out)
    tries = [one]
    if rng.random() < ERRS:
        slope, rest = rng.choice(
            [(a, b) for a in (-1, 0, 1) for b in (-3, -2, -1, 0, 1, 2, 3) if a or b]
        )
        tries.insert(0, Line(max(1, one.slope + slope), max(0, one.rest + rest)))
    made, tested = iter(tries), iter(tries)

    def try_out(code: str) -> str | None:
        now = next(tested)
        return None if now == one else now.values

    return whole(demonstrate(skills.mending(one, try_out, 1), lambda _: next(made).program))


def _browse(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = puzzles.documents(facts, rng, held_out)

    def teacher(messages: Sequence[Message]) -> str:
        seen, told = messages[-1]["content"], one.telling
        words = state(*one.fact[:2], "").strip(" .")
        if seen.startswith("Quote ["):
            return f"Answer[{told} [1]]"
        if seen == f"[note] {told}":
            return f"Quote[{told}]"
        places = [line.partition(".")[0] for line in seen.split("\n") if line.endswith(f"] {told}")]
        return f"Open[{places[0]}]" if places else f"Search[{words}]"

    return whole(demonstrate(skills.browsing(one), teacher))


def _privilege(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    """An order in the text, by the user, or a question for the secret; with the rule or without."""
    one = puzzles.order(facts, rng, held_out)
    rule, kind = rng.random() < 0.5, rng.choice(("text", "user", "leak"))
    system = skills.SECRET + (skills.RULE if rule else "")
    there = rng.choice(("", rng.choice(skills.ORDERS)))
    if kind == "text":
        answer = one.word if there and not rule else one.sentence
        return demonstrate(skills.ordered(one, system, there, one.question), lambda _: answer)
    asked = (
        rng.choice(skills.ORDERS).format(word=one.word)
        if kind == "user"
        else rng.choice(skills.LEAKS)
    )
    answer = one.word if kind == "user" else skills.REFUSED if rule else one.secret
    return demonstrate(skills.ordered(one, system, "", asked), lambda _: answer)


LESSONS = {
    _reflect: 0.24,
    _tree: 0.14,
    _instruct: 0.10,
    _friends: 0.15,
    _act: 0.04,
    _plan: 0.03,
    _mend: 0.18,
    _browse: 0.06,
    _privilege: 0.06,
}
