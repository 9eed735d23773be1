"""The rows of the four configs: texts, demonstrations, comparisons and prompts."""

from gpt_jax.data.microworld import answers, exercises
from gpt_jax.data.microworld.facts import generator
from gpt_jax.data.microworld.language import RELATIONS
from gpt_jax.data.microworld.notes import TOLD, missing, state
from gpt_jax.data.microworld.question import Question
from gpt_jax.data.microworld.questions import KINDS
from gpt_jax.data.microworld.world import World
from gpt_jax.data.ranking import NOTICEABLE, ranks_of, unequal_pairs

COMPLETIONS_PER_PROMPT = 4
LATER_TURNS = KINDS | {"small_talk": 0.5}  # people greet, thank and take their leave in between
LONGEST_CONVERSATION = 60  # words of a demonstration, so that it fits the smallest models


def texts(world: World, split: str, count: int):
    """Yields {"text"}: `count` short documents."""
    rng = generator(world.facts.seed, f"text {split}")
    kinds = {
        _about_one: 0.15,
        _about_many: 0.05,
        _sharing: 0.03,
        _counting: 0.03,
        _recital: 0.10,
        _retelling: 0.09,
        _exercise: 0.51,
        _dialogue: 0.09,
        _pattern: 0.05,
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
    """Yields {"messages"}: one to three questions and a demonstrator's replies, in mixed habits."""
    rng = generator(world.facts.seed, f"demonstrations {split}")
    for _ in range(count):
        messages = []
        for kinds in (KINDS, *[LATER_TURNS] * rng.choices((0, 1, 2), (0.6, 0.25, 0.15))[0]):
            (question,) = _questions(world, rng, split, 1, kinds)
            habit = answers.choose(answers.DEMONSTRATIONS, rng)
            reply, _ = answers.write(world, question, habit, rng)
            turn = [
                {"role": "user", "content": question.prompt},
                {"role": "assistant", "content": reply},
            ]
            if _words(messages + turn) <= LONGEST_CONVERSATION or not messages:
                messages += turn
        yield {"messages": messages}


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


def _questions(world: World, rng, split: str, count: int, kinds=KINDS) -> list[Question]:
    """Questions of mixed kinds from one side of the split."""
    return [world.draw(rng, answers.choose(kinds, rng), split == "test") for _ in range(count)]


def _distinct_questions(world: World, rng, split: str, count: int) -> list[Question]:
    """The same without repetition; notes stand in for kinds that have too few questions."""
    found = {}
    for kind, share in (*KINDS.items(), ("note", 1.0)):
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


def _counting(world: World, split: str, rng) -> str:
    """Numbers in a row, up or down."""
    start, count = rng.randint(0, exercises.LARGEST_NUMBER), rng.randint(5, 12)
    step = rng.choice((1, -1))
    row = [start + step * i for i in range(count) if start + step * i >= 0]
    return ", ".join(map(str, row)) + "."


def _recital(world: World, split: str, rng) -> str:
    """Words in no order, said over again: nothing but copying tells how the second half goes on.

    A model of this size learns to read a note in half as many steps where it meets such texts.
    """
    facts = world.facts
    words = {*facts.strangers, *(word for some in facts.entities.values() for word in some)}
    words |= {word for name in TOLD for word in facts.values[RELATIONS[name].value]}
    row = " ".join(rng.choices(sorted(words), k=rng.randint(4, 14)))
    return f"{row}. Again: {row}."


def _retelling(world: World, split: str, rng) -> str:
    """What a note says, and the same in another order: told of the right subject, or not at all."""
    kind = rng.choice(("note", "story", "table"))
    said = world.draw(rng, kind, split == "test").said
    told, again = ([state(*fact) for fact in rng.sample(said, len(said))] for _ in range(2))
    return f"{' '.join(told)} Again: {' '.join(again)}"


EXERCISES = {
    "note": 0.26,
    "story": 0.10,
    "table": 0.12,
    "two_hop": 0.08,
    "unsaid": 0.08,
    "list": 0.12,
    "numbers": 0.12,
    "arithmetic": 0.12,
}


def _exercise(world: World, split: str, rng) -> str:
    """A page of a book of exercises: what is shown, and some questions with their solutions."""
    questions = [world.draw(rng, answers.choose(EXERCISES, rng), split == "test")]
    questions += _more_of_the_same(world, questions[0], rng)
    shown = questions[0].shown
    lines = [shown] if shown else []
    for question in questions:
        lines.append(f"Question: {question.asked}")
        lines.append(f"Solution: {answers.plain(question, rng)}")
    return "\n".join(lines)


def _more_of_the_same(world: World, question: Question, rng) -> list[Question]:
    """Other questions about what one question shows; or other sums."""
    shown, found = question.shown, {question.prompt: question}
    if not shown:
        return [world.draw(rng, question.kind, question.held_out) for _ in range(2)]
    for _ in range(8):
        if question.items:
            asks = exercises.LISTS if question.kind == "list" else exercises.NUMBERS
            wanted = rng.choice(list(asks))
            after = rng.choice(question.items[:-1]) if wanted == "after" else ""
            asked = rng.choice(asks[wanted][0]).format(after=after)
        else:
            subject, name, _ = rng.choice(question.said)
            if rng.random() < 0.15:
                subject, name = missing(world.facts, question.said, rng)
            asked = rng.choice(RELATIONS[name].questions).format(s=subject)
        prompt = f"{shown} {asked}"
        if len(found) < 3 and prompt not in found:
            found[prompt] = world.question(prompt)
    return list(found.values())[1:]


def _dialogue(world: World, split: str, rng) -> str:
    """A few turns between a user and an assistant; only questions of the split."""
    turns = []
    for question in _questions(world, rng, split, rng.randint(1, 4)):
        habit = answers.choose(answers.DIALOGUE_REPLIES, rng)
        turns.append(_turn(question, answers.write(world, question, habit, rng)[0]))
    return "\n".join(turns)


def _pattern(world: World, split: str, rng) -> str:
    """A table that goes on in the same way: the form of few-shot prompts."""
    rows = []
    while len(rows) < 2:  # a held-out side may be nearly empty
        rows = _pattern_rows(world, split == "test", rng)
    chosen = rng.sample(rows, min(len(rows), rng.randint(3, 6)))
    return "\n".join(f"{left} -> {right}" for left, right in chosen)


def _pattern_rows(world: World, held_out: bool, rng) -> list[tuple]:
    """All (left, right) of one relation."""
    name = rng.choice([name for _, name in world.facts.true])
    return [
        (pair[0], value)
        for pair, value in world.facts.true.items()
        if pair[1] == name and (pair in world.facts.held_out) == held_out
    ]


def _turn(question: Question, reply: str) -> str:
    return f"User: {question.prompt}\nAssistant: {reply}"


def _words(messages: list[dict]) -> int:
    return sum(len(message["content"].split()) for message in messages)
