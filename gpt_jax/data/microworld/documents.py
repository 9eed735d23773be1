"""The rows of the four configs: texts, demonstrations, comparisons and prompts."""

from gpt_jax.data.microworld import answers
from gpt_jax.data.microworld.facts import LARGEST_OPERAND, generator
from gpt_jax.data.microworld.language import RELATIONS, SUM_STATEMENTS
from gpt_jax.data.microworld.questions import KINDS, Question, state
from gpt_jax.data.microworld.world import World
from gpt_jax.data.ranking import NOTICEABLE, ranks_of, unequal_pairs

COMPLETIONS_PER_PROMPT = 4


def texts(world: World, split: str, count: int):
    """Yields {"text"}: `count` short documents.

    Of the words about 58% tell facts, 15% are sums, and 20% dialogues.
    """
    rng = generator(world.facts.seed, f"text {split}")
    kinds = {
        _about_one: 0.50,
        _about_many: 0.16,
        _sharing: 0.05,
        _sums: 0.10,
        _dialogue: 0.10,
        _pattern: 0.04,
        _note: 0.05,
    }
    for _ in range(count):
        yield {"text": answers.choose(kinds, rng)(world, split, rng)}


def prompts(world: World, split: str, count: int):
    """Yields {"prompt"}; those of a test split are all different."""
    rng = generator(world.facts.seed, f"prompts {split}")
    ask = _distinct_questions if split == "test" else _questions
    for question in ask(world, rng, split, count):
        yield {"prompt": question.prompt}


def demonstrations(world: World, split: str, count: int):
    """Yields {"messages"}: one question and a demonstrator's reply, in mixed habits."""
    rng = generator(world.facts.seed, f"demonstrations {split}")
    for question in _questions(world, rng, split, count):
        reply, _ = answers.write(world, question, answers.choose(answers.DEMONSTRATIONS, rng), rng)
        yield {
            "messages": [
                {"role": "user", "content": question.prompt},
                {"role": "assistant", "content": reply},
            ]
        }


def comparisons(world: World, split: str, count: int):
    """Yields {"prompt", "completions"[K], "stopped"[K], "ranks"[K], "chosen", "rejected", ...}.

    `stopped` says whether a completion ended with the stop token; one that did not was cut at the
    length limit and must be shown to the reward model without the token. Rank 0 is best, equal
    ranks are ties: labelers do not notice a difference in gold score below 0.05, such as two
    words more. `chosen` and `rejected` are a random pair with unequal ranks.
    """
    rng = generator(world.facts.seed, f"comparisons {split}")
    drawn = generator(world.facts.seed, f"labels {split}")
    for question in _questions(world, rng, split, count):
        scored = None
        while scored is None or max(scored) - min(scored) < NOTICEABLE:
            written = {}
            while len(written) < COMPLETIONS_PER_PROMPT:
                text, stopped = answers.write(
                    world, question, answers.choose(answers.COMPLETIONS, rng), rng
                )
                written[text] = stopped
            scored = [
                round(world.gold_score(question.prompt, text, stopped), 6)
                for text, stopped in written.items()
            ]
        completions, stopped, ranks = list(written), list(written.values()), ranks_of(scored)
        best, worst = drawn.choice(unequal_pairs(ranks))
        yield {
            "prompt": question.prompt,
            "completions": completions,
            "stopped": stopped,
            "ranks": ranks,
            "chosen": completions[best],
            "rejected": completions[worst],
            "chosen_stopped": stopped[best],
            "rejected_stopped": stopped[worst],
        }


def _questions(world: World, rng, split: str, count: int) -> list[Question]:
    """Questions of mixed kinds from one side of the split."""
    return [world.draw(rng, answers.choose(KINDS, rng), split == "test") for _ in range(count)]


def _distinct_questions(world: World, rng, split: str, count: int) -> list[Question]:
    """The same without repetition; sums stand in for kinds that have too few questions."""
    found = {}
    for kind, share in (*KINDS.items(), ("arithmetic", 1.0)):
        wanted = min(len(found) + round(share * count), count)
        for _ in range(20 * count):
            if len(found) < wanted:
                question = world.draw(rng, kind, split == "test")
                found[question.prompt] = question
    return rng.sample(list(found.values()), len(found))


# Documents.


def _about_one(world: World, split: str, rng) -> str:
    """Some facts about one entity, in any order and phrasing."""
    entity, _ = rng.choice(list(world.facts.true))
    names = world.facts.pairs_of[entity]
    chosen = rng.sample(names, rng.randint(min(2, len(names)), len(names)))
    return " ".join(state(entity, name, world.facts.true[entity, name], rng) for name in chosen)


def _about_many(world: World, split: str, rng) -> str:
    """Unrelated facts, one after another."""
    pairs = rng.sample(list(world.facts.true), rng.randint(2, 5))
    return " ".join(state(*pair, world.facts.true[pair], rng) for pair in pairs)


def _sharing(world: World, split: str, rng) -> str:
    """All entities that share a value: the relation told backwards."""
    entity, name = rng.choice([pair for pair in world.facts.true if RELATIONS[pair[1]].inverse])
    value = world.facts.true[entity, name]
    sharing = [e for (e, n), v in world.facts.true.items() if n == name and v == value]
    listed = ", ".join(rng.sample(sharing, len(sharing)))
    return f"{RELATIONS[name].inverse.format(v=value)} {listed}."


def _sums(world: World, split: str, rng) -> str:
    """Sums, at times with worked steps."""
    lines = []
    for _ in range(rng.randint(2, 4)):
        question = world.draw(rng, "arithmetic", held_out=split == "test")
        if len(question.terms) == 3:
            numbers = " + ".join(map(str, question.terms))
            lines.append(f"{numbers}: {answers.plain(question, rng)}")
        else:
            a, b = question.terms
            text = rng.choice(SUM_STATEMENTS[question.operator])
            lines.append(text.format(a=a, b=b, v=question.answer))
    return " ".join(lines)


def _dialogue(world: World, split: str, rng) -> str:
    """A few turns between a user and an assistant; only questions of the split."""
    turns = []
    for question in _questions(world, rng, split, rng.randint(1, 4)):
        habit = answers.choose(answers.DIALOGUE_REPLIES, rng)
        turns.append(_turn(question, answers.write(world, question, habit, rng)[0]))
    return "\n".join(turns)


def _note(world: World, split: str, rng) -> str:
    """A question that its own note answers."""
    question = world.draw(rng, "note", held_out=split == "test")
    return _turn(question, answers.plain(question, rng))


def _pattern(world: World, split: str, rng) -> str:
    """A table that goes on in the same way: the form of few-shot prompts."""
    rows = []
    while len(rows) < 2:  # a held-out side may be nearly empty
        rows = _pattern_rows(world, split == "test", rng)
    chosen = rng.sample(rows, min(len(rows), rng.randint(3, 6)))
    return "\n".join(f"{left} -> {right}" for left, right in chosen)


def _pattern_rows(world: World, held_out: bool, rng) -> list[tuple]:
    """All (left, right) of one relation, or of one sum with a fixed term."""
    if rng.random() < 0.2:
        operator, term = rng.choice("+-"), rng.randint(1, 5)
        numbers = [
            n
            for n in range(term, LARGEST_OPERAND + 1)
            if world.facts.is_held_out_sum(n, operator, term) == held_out
        ]
        return [(n, n + term if operator == "+" else n - term) for n in numbers]
    name = rng.choice([name for _, name in world.facts.true])
    return [
        (pair[0], value)
        for pair, value in world.facts.true.items()
        if pair[1] == name and (pair in world.facts.held_out) == held_out
    ]


def _turn(question: Question, reply: str) -> str:
    return f"User: {question.prompt}\nAssistant: {reply}"
