"""The ladder's lessons and rungs, with a scripted model that knows how each is asked."""

import dataclasses
import json
import random
import re

import jax
import pytest

from experiments.prompting import climb, ladder, lessons, rungs
from gpt_jax.data.microworld import make_world, problems
from gpt_jax.errors import UserError
from gpt_jax.generate.text import TextModel
from gpt_jax.models import ModelConfig, init
from gpt_jax.prompting import thought
from gpt_jax.prompting.demonstrate import demonstrate
from gpt_jax.prompting.strategy import Ask
from gpt_jax.report import ladder as report
from gpt_jax.text.tokenizer import Tokenizer
from tests.prompting.scripted import Scripted

WORLD = make_world()
FACTS = WORLD.facts


def some(make, held_out, count=200):
    rng = random.Random(0)
    return [make(FACTS, rng, held_out) for _ in range(count)]


def test_demonstrations_are_all_that_a_strategy_asked():
    def twice(question):
        (first,) = yield Ask([question])
        (second,) = yield Ask([[{"role": "user", "content": f"not {first.text}?"}]])
        return second.text

    kept = demonstrate(twice("a"), lambda messages: messages[-1]["content"].upper())
    assert [[m["content"] for m in one["messages"]] for one in kept] == [
        ["a", "A"],
        ["not A?", "NOT A?"],
    ]


def test_sums_are_worked_out_rightly_in_both_directions():
    for one in some(problems.several_terms, False):
        for backwards in (False, True):
            steps = one.steps(backwards)
            for a, b, c in (map(int, re.findall(r"\d+", step)) for step in steps):
                assert a + b == c
            assert steps[-1].endswith(f" {one.answer}.")
        assert thought.last_number(lessons.chain(one)) == one.answer == str(sum(one.terms))


def test_a_pattern_shows_every_label_early_and_never_the_word_that_is_asked():
    for one in some(problems.pattern, True):
        assert one.label in {label for _, label in one.shown[:4]}
        assert one.word not in {word for word, _ in one.shown}


def test_notes_tell_the_answer_once():
    for one in some(problems.told, True, 50):
        assert one.notes.count(one.telling) == 1 and len(one.notes) == 15
        assert one.fact[0] in one.telling and one.fact[2].lower() in one.telling.lower()


def texts(held_out, count=1500):
    rows = lessons.lessons(FACTS, 0, count, held_out)
    return [[message["content"] for message in row["messages"]] for row in rows]


def test_nothing_that_is_held_out_is_in_a_lesson():
    """Break it: draw the problems of a lesson without their side."""
    said = [text for lesson in texts(False) for text in lesson]
    words = set(re.findall(r"[A-Za-z]+", " ".join(said)))
    assert not words & set(FACTS.readers)
    sums = {one.question for one in some(problems.several_terms, True, 2000)}
    large = {one.question for one in some(problems.large_terms, True, 2000)}
    assert not {text.split("\n")[0].removeprefix("Question: ") for text in said} & (sums | large)
    kinds = {word: kind for kind in problems.TYPES for word in problems.VALUES[kind]}
    for lesson in texts(False):
        if lesson[0] in kinds:
            for word, label in zip(lesson[::2], lesson[1::2], strict=True):
                assert not FACTS.is_held_out("pattern", kinds[word], label)
    for entity, name in FACTS.held_out:
        if name in problems.TELLING:
            assert not any(entity in text for text in said if FACTS.true[entity, name] in text)


def test_lessons_are_the_same_every_time_and_differ_by_seed_and_side():
    assert texts(False, 50) == texts(False, 50) != texts(True, 50)
    assert texts(False, 50) != [
        [m["content"] for m in row["messages"]] for row in lessons.lessons(FACTS, 1, 50, False)
    ]


@pytest.fixture(scope="module")
def asked():
    """All rungs of a model that is never asked itself, but for its tokenizer and its shape."""
    tokenizer = Tokenizer.train([text for lesson in texts(False, 300) for text in lesson], 400)
    config = ModelConfig(vocab_size=400, context_length=512, width=8, layers=1, heads=1)
    model = TextModel(config, init(config, jax.random.key(0)), tokenizer)
    return rungs.rungs(model, WORLD, 0, 12, 3)


def knows(asked):
    """A model that does what each strategy asks for, and nothing without being asked."""
    sums = {one.question: one for r in asked for one in r.asked if isinstance(one, problems.Sum)}
    outside = {one.question: one for r in asked if r.task == rungs.OUTSIDE for one in r.asked}

    def reply(prompt, sample):
        question = prompt.split("\n")[0].removeprefix("Question: ")
        if prompt.startswith("Question: "):
            seen = prompt.rpartition("Observation:")[2].strip()
            return (
                f"Action: Finish[ {seen} ]"
                if "Observation" in prompt
                else f"Action: Calculator[ {sums[question].expression} ]"
            )
        if question in sums and thought.STEP_BY_STEP in prompt:
            return lessons.chain(sums[question]) if sample else "So the answer is 1."
        for asking, one in outside.items():
            if prompt.endswith(asking) and one.fact[2].lower() in prompt.lower():
                return one.sentence
        return '{"answer": "nothing"' if lessons.AS_JSON in prompt else "what?"

    return Scripted(reply)


def test_each_strategy_is_asked_as_it_asks_and_judged_as_it_answers(asked):
    model = knows(asked)
    ask = [rung._replace(complete=None) for rung in asked if rung.task != rungs.PATTERNS]
    found = {(one["task"], one["strategy"]): one for one in (climb.climb(model, r) for r in ask)}

    def right(*name):
        return sum(found[name]["scores"]) / len(found[name]["scores"])

    assert right(rungs.SUMS, "direct") == 0.0
    assert right(rungs.SUMS, "step by step") == 0.0  # the scripted model's first chain is wrong
    assert right(rungs.SUMS, "majority of chains") == 1.0
    assert right(rungs.LARGE, "no tool") == 0.0
    assert right(rungs.LARGE, "calculator") == 1.0
    assert found[rungs.LARGE, "calculator"]["calls"] == 2.0
    assert right(rungs.OUTSIDE, "no notes") == 0.0
    assert right(rungs.OUTSIDE, "retrieval") > 0.5  # where BM25 finds the note
    assert right(rungs.PARSES, "free") == 0.0


def test_only_examples_show_a_pattern(asked):
    def reply(prompt, sample):
        return labels.get(prompt, "?")

    ask = [rung for rung in asked if rung.task == rungs.PATTERNS]
    labels = {one.word: one.label for one in ask[0].asked}
    model = Scripted(reply)
    assert all(sum(climb.climb(model, rung)["scores"]) >= 10 for rung in ask)
    lengths = sorted({len(prompt) for prompt in model.asked})
    assert lengths == [1, 3, 9, 17]


def test_constrained_answers_fit_the_schema(asked):
    pytest.importorskip("llguidance")
    rung = next(r for r in asked if r.task == rungs.PARSES and r.complete)
    found = climb.climb(None, rung._replace(asked=rung.asked[:2]))
    assert found["scores"] == [1.0, 1.0], found["samples"]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ('{"answer": "x"}', "x"),
        ('{"answer": "a name that is far too long"}', None),
        ('{"answer": 3}', None),
        ("x", None),
        ("[1]", None),
        ("{}", None),
    ],
)
def test_what_is_json_that_fits(said, answer):
    assert rungs.parsed(said) == answer


def test_an_ordering_is_shown_only_if_the_interval_and_every_seed_show_it():
    def one(task, strategy, scores):
        costs = {"read": 1.0, "written": 1.0, "calls": 1.0}
        return {"course": "basics", "task": task, "strategy": strategy, "scores": scores, **costs}

    def seed(better):
        low = [one(task, worse, [0.0, 1.0] * 20) for task, worse, _ in rungs.EXPECTED]
        return low + [one(task, name, better) for task, _, name in rungs.EXPECTED]

    def summarise(seeds):
        return climb.summarise(seeds, rungs.EXPECTED)

    both = summarise({0: seed([1.0] * 40), 1: seed([1.0] * 40)})
    assert all(ordering["shown"] for ordering in both["orderings"])
    assert both["orderings"][0]["difference"][0] == 0.5
    one_of_two = summarise({0: seed([1.0] * 40), 1: seed([0.0] * 20 + [1.0] * 20)})
    assert not any(ordering["shown"] for ordering in one_of_two["orderings"])
    assert one_of_two["rungs"][0]["questions"] == 80


def test_a_context_that_is_too_short_is_said_before_the_training():
    short = dataclasses.replace(ladder.smoke().skills.model, context_length=64)
    recipe = dataclasses.replace(ladder.smoke().skills, model=short)
    config = dataclasses.replace(ladder.smoke(), skills=recipe, course="skills")
    with pytest.raises(UserError, match="course skills; give 384 .*--skills.model.context-length"):
        ladder.prepare(config, None)


def test_the_report_has_a_table_and_a_figure_for_every_course(tmp_path):
    def one(course, task, strategy, score):
        costs = {"read": 1.0, "written": 2.0, "calls": 1.0, "scores": [score] * 10}
        return {"course": course, "task": task, "strategy": strategy, **costs}

    found = [
        one(course, task, name, score)
        for course, task in (("basics", "sums"), ("skills", "puzzles"))
        for name, score in (("plain", 0.0), ("better", 1.0))
    ]
    expected = [("sums", "plain", "better"), ("puzzles", "plain", "better")]
    results = {"command": "python", **climb.summarise({0: found}, expected)}
    report.write(tmp_path, results)
    first, second = (tmp_path / "ladder.md").read_text().split("## Skills")
    assert "sums: better over plain: shown" in first and "puzzles" not in first
    assert "puzzles: better" in second and "sums" not in second
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        "ladder-basics.svg",
        "ladder-skills.svg",
    }
    assert json.loads((tmp_path / "results.json").read_text())["orderings"][1]["shown"]
