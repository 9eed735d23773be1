"""The judge of the microworld: it reads what a reply says, and cannot be talked into a yes."""

import collections
import re
import time

import pytest

from gpt_jax.data.microworld import answers, documents, make_world
from gpt_jax.data.microworld.facts import generator
from gpt_jax.data.microworld.language import CLOSERS, OPENERS, RELATIONS
from gpt_jax.data.microworld.mistakes import mistaken
from gpt_jax.data.microworld.questions import KINDS
from gpt_jax.data.microworld.wordings import THAT_IS_IT
from tests.data import adversarial, figures_by_hand, replies_by_hand

WORLD = make_world()
CASES = replies_by_hand.CASES + figures_by_hand.CASES
WORST_RIGHT, BEST_WRONG = 0.5, 0.125


def scores(prompt, replies):
    return {reply: WORLD.gold_score(prompt, reply) for reply in replies}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.prompt[-30:])
def test_replies_by_hand(case):
    right, wrong = scores(case.prompt, case.right), scores(case.prompt, case.wrong)
    assert {text: score for text, score in right.items() if score < WORST_RIGHT - 1e-9} == {}
    assert {text: score for text, score in wrong.items() if score > BEST_WRONG + 1e-9} == {}


def test_there_are_many_by_hand_of_every_kind():
    asked = [WORLD.question(case.prompt) for case in CASES]
    assert {question.kind for question in asked} == set(KINDS)
    assert sum(len(case.right) for case in CASES) >= 100
    assert sum(len(case.wrong) for case in CASES) >= 100


@pytest.mark.parametrize("kind", KINDS)
def test_bent_and_dressed_answers(kind):
    """Break: leave a DENIED verb's negation out of `frames.shape`, or the steps out of a sum."""
    rng = generator(0, f"adversarial {kind}")
    missed, tried = {}, collections.Counter()
    for i in range(40):
        question = WORLD.draw(rng, kind, held_out=i % 2 == 0)
        for verdict, make in (("wrong", adversarial.wrong), ("right", adversarial.right)):
            for how, reply in make(WORLD, question, rng).items():
                tried[verdict] += 1
                if WORLD.verdict(question.prompt, reply) != verdict:
                    missed[verdict, how] = (question.prompt, reply)
    assert missed == {}
    assert min(tried.values()) >= 200


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_beside_decides(kind):
    """Any sentences in any order: one that is wrong spoils the reply, fluff does not.

    Break: let `gold.verdict` look at the first answer only.
    """
    rng = generator(0, f"composed {kind}")
    for _ in range(150):
        question = WORLD.draw(rng, kind, held_out=False)
        parts = {
            "right": answers.plain(question, rng),
            "wrong": answers.plain(mistaken(WORLD, question, rng), rng),
            "unknown": rng.choice(("I do not know.", "I have no idea.")),
            "fluff": rng.choice((*OPENERS, *CLOSERS)),
            "courtesy": rng.choice(("Sure!", "Of course!", "Happy to help!")),
            "question": "Do you want to know more?",
        }
        if not question.answer:
            parts["unknown"] = parts["right"]
        chosen = rng.sample(list(parts), rng.randint(1, 5))
        verdict = WORLD.verdict(question.prompt, " ".join(parts[name] for name in chosen))
        if "wrong" in chosen or not {"right", "unknown"} & set(chosen):
            assert verdict == "wrong", chosen
        elif question.answer and "unknown" in chosen:
            assert verdict == ("wrong" if "right" in chosen else "unknown"), chosen
        else:
            assert verdict == "right", chosen


@pytest.mark.parametrize("kind", KINDS)
def test_not_to_know_is_a_verdict_of_its_own(kind):
    """It is right where the prompt does not say, and worth a little where it does."""
    question = WORLD.draw(generator(0, f"unknown {kind}"), kind, held_out=False)
    for reply in ("I do not know.", "Sorry, I don't know that.", "I have no idea."):
        verdict = WORLD.verdict(question.prompt, reply)
        assert verdict == ("unknown" if question.answer else "right")
    if question.answer:
        assert 0.2 < WORLD.gold_score(question.prompt, "I do not know.") < 0.5


def test_every_phrasing_of_every_fact_is_read():
    """In its own words, denied, and of another one. Break: drop a statement from the frames."""
    for (subject, name), value in WORLD.facts.true.items():
        relation = RELATIONS[name]
        others = WORLD.facts.entities.get(relation.value) or WORLD.facts.values[relation.value]
        other = next(v for v in others if v not in (value, subject))
        prompt = relation.questions[0].format(s=subject)
        for text in relation.statements:
            assert WORLD.is_correct(prompt, text.format(s=subject, v=value)), text
            assert WORLD.verdict(prompt, text.format(s=subject, v=other)) == "wrong", text


def test_words_in_no_order_are_never_right():
    """Random words of the world, and of the prompt with its answer."""
    rng = generator(0, "random words")
    token = r"[A-Za-z]+|\d+|[.,:?!=+-]"
    texts = "\n".join(row["text"] for row in documents.texts(WORLD, "train", 1000))
    world_words = sorted(set(re.findall(token, texts)))
    right, near_right, count = 0, 0, 4000
    for i in range(count):
        question = WORLD.draw(rng, rng.choice(list(KINDS)), held_out=i % 2 == 0)
        near = re.findall(token, f"{question.prompt} {answers.plain(question, rng)}")
        length = rng.randint(3, 12)
        reply, near_reply = (" ".join(rng.choices(w, k=length)) for w in (world_words, near))
        right += WORLD.is_correct(question.prompt, reply)
        near_right += WORLD.is_correct(question.prompt, near_reply)
    assert right < 0.005 * count
    assert near_right < 0.03 * count  # most of them the bare answer among signs


def test_a_reply_cut_off_while_it_repeats_itself():
    prompt = "Note: Joro is a miller. Nini has a goat. What does Joro work as?"
    assert WORLD.is_correct(prompt, "Joro is a miller. Joro is a")
    assert not WORLD.is_correct(prompt, "Joro is a miller. Nini is a")
    assert not WORLD.is_correct(prompt, "Is Joro a miller? Joro is a miller?")


def test_fluff_is_no_scrap():
    assert all(WORLD.is_correct("What is 3 + 4?", f"{text} 7.") for text in OPENERS)
    assert all(WORLD.is_correct("What is 3 + 4?", f"7. {text}.") for text in THAT_IS_IT)
    assert not WORLD.is_correct("What is 3 + 4?", "7. Is the. Of a.")


def test_a_reply_of_many_commas_costs_no_more():
    """Break: drop MOST_JOINTS; the time would grow with the square of the commas."""
    start = time.process_time()
    for reply in ("7, " * 500, "and so " * 500, "7 and not 8, " * 200):
        assert WORLD.verdict("What is 3 + 4?", reply) == "wrong"
    assert time.process_time() - start < 0.5


def test_the_judge_is_fast():
    """Tens of thousands of replies are judged in a run. Break: compile patterns in a function."""
    rng = generator(0, "speed")
    habits = list(answers.COMPLETIONS)
    made = []
    for kind in KINDS:
        for _ in range(50):
            question = WORLD.draw(rng, kind, held_out=False)
            reply, _ = answers.write(WORLD, question, rng.choice(habits), rng)
            made.append((question.prompt, reply))
    start = time.process_time()
    for prompt, reply in made:
        WORLD.verdict(prompt, reply)
    assert len(made) / (time.process_time() - start) > 2000
