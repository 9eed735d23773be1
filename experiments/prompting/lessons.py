"""What the ladder's model learns from: each strategy asks a teacher who knows the answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from gpt_jax.data.microworld import problems
from gpt_jax.data.microworld.facts import Facts, generator
from gpt_jax.data.microworld.problems import Sum, Told
from gpt_jax.prompting import thought
from gpt_jax.prompting.agent import OBSERVED, react
from gpt_jax.prompting.context import direct
from gpt_jax.prompting.demonstrate import demonstrate
from gpt_jax.prompting.retrieval import BM25, Chunk, answer_from
from gpt_jax.prompting.tools import CALCULATOR, Tool
from gpt_jax.text.chat import Message

# Makes the exchanges about one problem -> its share of all problems.
Course = Mapping[Callable[[Facts, random.Random, bool], list[dict]], float]
TOOLS: tuple[Tool, ...] = (CALCULATOR,)
SYSTEM = "Use a tool:\n{tools}"
RETRIEVED = 6  # notes in a prompt
PLENTY = 10**6  # characters, for all of them
SHOWN_AS_JSON = 3  # notes before a question that is answered in JSON
AS_JSON = "Answer as JSON."


def chain(problem: Sum, backwards: bool = False) -> str:
    """A sum worked out."""
    return " ".join([*problem.steps(backwards), f"{thought.SO} {problem.answer}."])


def index_of(notes: Sequence[str]) -> tuple[list[Chunk], BM25]:
    """Notes as a retriever has them, every one a document."""
    return [Chunk(note, "note", number) for number, note in enumerate(notes)], BM25(notes)


def in_json(problem: Told, rng: random.Random) -> str:
    """A question behind a few notes, to be answered in JSON."""
    others = [note for note in problem.notes if note != problem.telling]
    notes = [problem.telling, *rng.sample(others, SHOWN_AS_JSON - 1)]
    rng.shuffle(notes)
    return f"{' '.join(notes)} {problem.question}\n{AS_JSON}"


def lessons(
    facts: Facts, seed: int, count: int, held_out: bool, course: Course | None = None
) -> Iterator[dict]:
    """So many problems of a course, and the exchanges about them, as {"messages"}."""
    rng = generator(facts.seed, f"lessons {seed} {'test' if held_out else 'train'}")
    kinds, shares = zip(*(course or LESSONS).items(), strict=True)
    for _ in range(count):
        kind = rng.choices(kinds, shares)[0]
        yield from kind(facts, rng, held_out)


def _pattern(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = problems.pattern(facts, rng, held_out)
    return demonstrate(direct(one.word, one.shown), lambda _: one.label)


def _sum(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = problems.several_terms(facts, rng, held_out)
    return demonstrate(direct(one.question), lambda _: one.answer)


def _steps(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one, backwards = problems.several_terms(facts, rng, held_out), rng.random() < 0.5
    return demonstrate(thought.chain_of_thought(one.question), lambda _: chain(one, backwards))


def _shown_steps(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    shown, one = (problems.several_terms(facts, rng, held_out) for _ in range(2))
    shots = [(shown.question, chain(shown))]
    return demonstrate(thought.chain_of_thought(one.question, shots), lambda _: chain(one))


def _large(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = problems.large_terms(facts, rng, held_out)
    return demonstrate(direct(one.question), lambda _: one.answer)


def _tool(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = problems.large_terms(facts, rng, held_out)

    def teacher(messages: Sequence[Message]) -> str:
        _, observed, seen = messages[-1]["content"].rpartition(OBSERVED)
        if observed:
            return f"Thought: That is it.\nAction: Finish[ {seen.strip()} ]"
        return f"Thought: A tool adds.\nAction: {CALCULATOR.name}[ {one.expression} ]"

    return demonstrate(react(one.question, TOOLS, system=SYSTEM), teacher)


def _retrieved(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = problems.told(facts, rng, held_out)
    chunks, index = index_of(one.notes)
    steps = answer_from(one.question, chunks, index, count=len, room=PLENTY, k=RETRIEVED)
    return demonstrate(steps, lambda _: one.sentence)


def _known(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    del held_out  # memory knows what was said
    one = problems.known(facts, rng)
    return demonstrate(direct(one.question), lambda _: one.sentence)


def _json(facts: Facts, rng: random.Random, held_out: bool) -> list[dict]:
    one = problems.told(facts, rng, held_out)
    said = json.dumps({"answer": one.fact[2]})
    return demonstrate(direct(in_json(one, rng)), lambda _: said)


LESSONS = {
    _pattern: 0.22,
    _sum: 0.10,
    _steps: 0.20,
    _shown_steps: 0.04,
    _large: 0.05,
    _tool: 0.10,
    _retrieved: 0.18,
    _known: 0.05,
    _json: 0.06,
}
