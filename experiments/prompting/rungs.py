"""The rungs of the ladder: which strategy answers which held-out questions, and what is right."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

from experiments.prompting.climb import Rung
from experiments.prompting.lessons import RETRIEVED, SYSTEM, TOOLS, chain, in_json, index_of
from gpt_jax.data.microworld import World, problems
from gpt_jax.data.microworld.facts import generator
from gpt_jax.data.microworld.problems import Pattern, Sum, Told
from gpt_jax.generate.constraints import Constrain
from gpt_jax.generate.engine import Engine
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Complete, TextModel
from gpt_jax.prompting.agent import react
from gpt_jax.prompting.context import be_sure, direct, persona
from gpt_jax.prompting.retrieval import answer_from
from gpt_jax.prompting.strategy import Steps
from gpt_jax.prompting.thought import chain_of_thought, last_number, self_consistency

HELD_OUT = 400  # lessons for the held-out loss
SHORT = Sampling(max_new_tokens=24, temperature=0.0)
ACT = Sampling(max_new_tokens=40, temperature=0.0)
LONG = Sampling(max_new_tokens=72, temperature=0.0)
DRAWN = dataclasses.replace(LONG, temperature=0.7)
FREE = Sampling(max_new_tokens=48)  # the longest that fits the schema, were each token a byte
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 24}},
    "required": ["answer"],
    "additionalProperties": False,
}
PATTERNS, SUMS, LARGE = "patterns that are new", "sums of 4 to 6 terms", "sums of large numbers"
OUTSIDE, PARSES, IN_JSON = "facts outside the weights", "JSON that parses", "JSON that is right"
# What is expected: of these questions the second strategy answers more than the first.
EXPECTED = (
    (PATTERNS, "no example", "eight examples"),
    (SUMS, "direct", "step by step"),
    (SUMS, "one chain, drawn", "majority of chains"),
    (LARGE, "no tool", "calculator"),
    (OUTSIDE, "no notes", "retrieval"),
    (PARSES, "free", "constrained"),
)


def rungs(
    model: TextModel,
    world: World,
    seed: int,
    questions: int,
    chains: int,
    held_out: bool = True,
) -> list[Rung]:
    """All rungs, on questions that no lesson asks.

    Args:
      model: that will answer; its tokenizer says what fits a prompt.
      world: what is asked about.
      seed: of the questions, and of what is drawn.
      questions: of every kind.
      chains: of self-consistency.
      held_out: False: questions from the lessons' side, on which settings may be chosen.
    """
    facts, tokenizer = world.facts, model.tokenizer
    rng = generator(facts.seed, f"ladder {seed}")

    def some(make: Callable) -> list:
        return [make(facts, rng, held_out) for _ in range(questions)]

    drawn, free = (dataclasses.replace(one, seed=seed) for one in (DRAWN, FREE))
    patterns, sums, large = map(
        some, (problems.pattern, problems.several_terms, problems.large_terms)
    )
    outside = some(problems.told)
    if held_out:
        outside = problems.unheard_of(facts, rng, questions)
    noted = [(one, in_json(one, rng)) for one in some(problems.told)]
    shown = problems.several_terms(facts, rng, False)
    shots = [(shown.question, chain(shown))]
    library = index_of(world.library())
    room = model.config.context_length - SHORT.max_new_tokens

    def of_pattern(count: int) -> Callable[[Pattern], Steps]:
        return lambda one: direct(one.word, one.shown[:count], sampling=SHORT)

    def of_sum(strategy: Callable, **options: Any) -> Callable[[Sum], Steps]:
        return lambda one: strategy(one.question, **options)

    def retrieved(one: Told) -> Steps:
        return answer_from(
            one.question, *(index_of(one.notes) if one.notes else library),
            count=lambda text: len(tokenizer.encode(text)) + OVERHEAD,
            room=room, k=RETRIEVED, sampling=SHORT,
        )  # fmt: skip

    def labelled(one: Pattern, said: str) -> bool:
        return said.strip() == one.label

    def added(one: Sum, said: str | None) -> bool:
        return said is not None and last_number(said) == one.answer

    def true(one: Told, said: str) -> bool:
        return said.strip() == one.sentence

    def parses(one: tuple[Told, str], said: str) -> bool:
        return parsed(said) is not None

    def parses_right(one: tuple[Told, str], said: str) -> bool:
        return parsed(said) == one[0].fact[2]

    def ask_json(one: tuple[Told, str]) -> Steps:
        return direct(one[1], sampling=free)

    bound = constrained(model)
    of_counts = {"no example": 0, "one example": 1, "four examples": 4, "eight examples": 8}
    of_sums = {
        "direct": of_sum(direct, sampling=SHORT),
        "direct, asked to be sure": of_sum(be_sure, sampling=SHORT),
        "direct, as an expert": of_sum(persona, sampling=SHORT),
        "step by step": of_sum(chain_of_thought, sampling=LONG),
        "one worked example": of_sum(chain_of_thought, shots=shots, sampling=LONG),
        "one chain, drawn": of_sum(chain_of_thought, sampling=drawn),
        "majority of chains": of_sum(self_consistency, n=chains, sampling=drawn),
    }
    of_large = {
        "no tool": of_sum(direct, sampling=SHORT),
        "calculator": of_sum(react, tools=TOOLS, system=SYSTEM, sampling=ACT, limit=4),
    }
    return [
        *(Rung(PATTERNS, n, of_pattern(k), patterns, labelled) for n, k in of_counts.items()),
        *(Rung(SUMS, name, strategy, sums, added) for name, strategy in of_sums.items()),
        *(Rung(LARGE, name, strategy, large, added) for name, strategy in of_large.items()),
        Rung(OUTSIDE, "no notes", of_sum(direct, sampling=SHORT), outside, true),
        Rung(OUTSIDE, "retrieval", retrieved, outside, true),
        Rung(PARSES, "free", ask_json, noted, parses),
        Rung(PARSES, "constrained", ask_json, noted, parses, bound),
        Rung(IN_JSON, "free", ask_json, noted, parses_right),
        Rung(IN_JSON, "constrained", ask_json, noted, parses_right, bound),
    ]


OVERHEAD = 4  # tokens of a chat's marks around a prompt


def constrained(model: TextModel) -> Complete:
    """The model where each answer fits the schema.

    Raises:
      UserError: if llguidance is missing.
    """
    constraint = Constrain(model.tokenizer, model.config.vocab_size).json_schema(SCHEMA)
    engine = Engine(model)
    return functools.partial(engine.complete, constraint=constraint)


def parsed(said: str) -> str | None:
    """The answer in JSON that fits the schema; None if the text does not."""
    try:
        found = json.loads(said)
    except ValueError:
        return None
    if not isinstance(found, dict) or list(found) != ["answer"]:
        return None
    answer, most = found["answer"], SCHEMA["properties"]["answer"]["maxLength"]
    return answer if isinstance(answer, str) and len(answer) <= most else None
