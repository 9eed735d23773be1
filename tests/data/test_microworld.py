"""The embedded world: its truth, how replies are scored, and what can be looked up in it."""

import re

import pytest

from gpt_jax.data.microworld import World, WorldSize, answers, gold_score, make_world
from gpt_jax.data.microworld.facts import generator
from gpt_jax.data.microworld.language import NOTE_OBJECTS, RELATIONS, VALUES
from gpt_jax.data.microworld.questions import KINDS
from gpt_jax.errors import UserError

WORLD = make_world()
WRONG_HABITS = {
    "wrong_ideal",
    "wrong_plain",
    "wrong_verbose",
    "courtesy_only",
    "contradiction",
    "no_answer",
    "off_topic",
    "garbage",
    "hedge",
    "echo",
}


def fact_prompt(entity, relation, phrasing=0):
    return RELATIONS[relation].questions[phrasing].format(s=entity)


# The world.


def test_size_and_facts():
    assert len(WORLD.facts.true) == 24 * 5 + 10 * 2 + 10 * 3
    small = World(1, WorldSize(people=6, places=3, things=4, strangers=2, library=3))
    assert len(small.facts.true) == 6 * 5 + 3 * 2 + 4 * 3
    assert all(len(set(relation.questions)) >= 5 for relation in RELATIONS.values())
    assert all(
        len(set(relation.statements)) >= 6
        for relation in RELATIONS.values()
        if relation.subject != "object"
    )


@pytest.mark.parametrize(
    "size", [WorldSize(things=99), WorldSize(people=2), WorldSize(places=1), WorldSize(people=5000)]
)
def test_impossible_sizes(size):
    with pytest.raises(UserError, match="WorldSize"):
        World(0, size)


def test_value_types_share_no_word():
    """Break: add a word to two lists of VALUES; a reply would no longer tell its type."""
    everything = [
        *VALUES.values(),
        *WORLD.facts.entities.values(),
        WORLD.facts.strangers,
        WORLD.facts.readers,
    ]
    words = [word.lower() for words in everything for word in words]
    assert len(words) == len(set(words))


def test_no_phrasing_is_shared():
    """Break: give two relations the same question; a prompt would have two answers."""
    counted = [
        question
        for name, relation in RELATIONS.items()
        for entity in {"object": NOTE_OBJECTS}.get(
            relation.subject, WORLD.facts.entities[relation.subject]
        )
        for question in [fact_prompt(entity, name, i) for i in range(len(relation.questions))]
    ]
    assert len(counted) == len(set(counted))


def test_another_seed_is_another_world():
    assert World(1).facts.true != WORLD.facts.true


# The score. What the judge makes of what is said is tried in `test_judge`.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_habits_score_in_order(kind, held_out):
    """An ideal answer scores 1; anything right beats not to know, and that anything wrong.

    Break: swap two weights of `gold`, or give `UNKNOWN` more than a right answer has.
    """
    rng = generator(0, f"test {kind} {held_out}")
    for _ in range(60):
        question = WORLD.draw(rng, kind, held_out)
        assert question.kind == kind and question.held_out == (held_out and kind != "small_talk")
        score = {}
        for habit in answers.COMPLETIONS:
            text, stopped = answers.write(WORLD, question, habit, rng)
            score[habit] = WORLD.gold_score(question.prompt, text, stopped)
        assert score["ideal"] == pytest.approx(1.0)
        assert score["plain"] == score["bare"] == pytest.approx(0.8)
        assert 0.7 <= score["polite_verbose"] <= 1.0
        assert 0.5 <= score["verbose"] <= 0.8 + 1e-9
        assert 0.5 <= score["flattering"] <= 0.8 + 1e-9
        assert score["unpunctuated"] == pytest.approx(0.7)
        assert 0.5 <= score["endless"] <= 0.7 + 1e-9
        if question.answer:
            assert 0.2 < score["abstaining"] <= 0.2 + 0.125 + 1e-9
        else:  # there it is right, and a guess is not
            assert score["abstaining"] <= 0.125 + 1e-9
        for habit in WRONG_HABITS:
            assert score[habit] <= 0.125 + 1e-9, habit
        assert score["empty"] == 0.0


def test_every_habit_is_of_a_kind():
    """Break: add a habit to COMPLETIONS and do not say above what it is worth."""
    right = {"ideal", "plain", "polite_verbose", "verbose", "flattering", "bare", "unpunctuated"}
    assert set(answers.COMPLETIONS) == right | {"endless", "abstaining", "empty"} | WRONG_HABITS
    for shares in (KINDS, answers.DEMONSTRATIONS, answers.DIALOGUE_REPLIES, answers.COMPLETIONS):
        assert sum(shares.values()) == pytest.approx(1.0)
    assert set(answers.DEMONSTRATIONS) | set(answers.DIALOGUE_REPLIES) <= set(answers.COMPLETIONS)


def test_the_formula():
    (entity, name), value = next(item for item in WORLD.facts.true.items() if item[0][1] == "home")
    prompt, right = fact_prompt(entity, name), f"{entity} lives in {value}"
    other = next(place for place in WORLD.facts.entities["place"] if place != value)
    assert gold_score(prompt, f"Sure! {right}.") == pytest.approx(1.0)
    assert gold_score(prompt, f"{value}.") == pytest.approx(0.8)
    assert gold_score(prompt, f"Sure! {right}.", stopped=False) == pytest.approx(0.9)
    assert gold_score(prompt, f"Sure! {right}") == pytest.approx(0.9)
    assert gold_score(prompt, f"Sure! Of course, {right}.") == pytest.approx(0.8)
    # 21 words: the brief part is 0.5.
    eight = "I hope that this is what you wanted."
    assert gold_score(prompt, f"Sure! {right}. {eight} {eight}") == (
        pytest.approx(0.5 + 0.2 * 0.5 + 0.2 + 0.1)
    )
    assert gold_score(prompt, f"Sure! {entity} lives in {other}.") == pytest.approx(0.25 * 0.5)
    assert gold_score(prompt, "Sorry, I do not know.") == pytest.approx(0.2 + 0.25 * 0.5)
    assert gold_score(prompt, " \n") == 0.0


def test_answers_in_steps_may_be_longer():
    """Signs are no words. Break: count every kind's words alike."""
    a_sum = "Happy to help: 4, 5, 6, 7. I counted it. So the answer is 3 + 4 = 7."
    assert len(re.findall(r"\w+", a_sum)) == 17
    assert gold_score("What is 3 + 4?", a_sum) == pytest.approx(1.0)
    (entity, name), value = next(item for item in WORLD.facts.true.items() if item[0][1] == "home")
    long = f"Happy to help: {entity} lives in {value}. I hope this answers your question."
    assert gold_score(fact_prompt(entity, name), long) < 1.0


def test_unknown_prompt():
    with pytest.raises(UserError, match="Who ate the moon"):
        gold_score("Who ate the moon?", "Nobody.")


def test_library_and_notes():
    """Long-tail facts are in no text, have known answers, and can be read from a note."""
    sentences = WORLD.library()
    assert len(sentences) == 24 * 5
    question = WORLD.library_questions()[0]
    entity, relation, value = question.hops[0]
    assert WORLD.answer(question.prompt) == value
    note = RELATIONS[relation].statements[2].format(s=entity, v=value)
    assert WORLD.answer(f"Note: {note} {question.prompt}") == value
    for sentence in sentences:
        assert WORLD.answer(f"Note: {sentence} {question.prompt}") == value
    # A note goes before what the world says; a note on something else is ignored.
    known, home = next(item for item in WORLD.facts.true.items() if item[0][1] == "home")
    other = next(place for place in WORLD.facts.entities["place"] if place != home)
    asked = fact_prompt(*known)
    assert WORLD.answer(f"Note: {known[0]} lives in {other}. {asked}") == other
    beside = WORLD.question(f"Note: The key is in the barn. {asked}")
    assert beside.answer == home and beside.said == (("key", "spot", "barn"),)
    assert WORLD.is_correct(beside.prompt, f"{home}. The key is in the barn.")
