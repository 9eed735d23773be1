"""The second course of the ladder: problems, lessons, and every rung with a scripted model."""

import json
import random
import re

import pytest

from experiments.prompting import climb, skill_lessons, skill_rungs, skills
from gpt_jax.data.microworld import make_world, puzzles
from gpt_jax.data.microworld.puzzles import Line, Puzzle
from gpt_jax.prompting.strategy import answer
from tests.prompting.scripted import said
from tests.tasks.test_sandbox import confined

FACTS = make_world().facts
MAKERS = {
    puzzles.few_terms: lambda one: one.question,
    puzzles.puzzle: lambda one: one.question,
    puzzles.listed: lambda one: one.words,
    puzzles.two_steps: lambda one: one.notes,
    puzzles.prices: lambda one: tuple(sorted(one.terms)),
    puzzles.line: lambda one: one.program,
    puzzles.documents: lambda one: one.notes,
    puzzles.order: lambda one: (one.sentence, one.word),
}


def some(make, held_out, count=100):
    rng = random.Random(0)
    return [make(FACTS, rng, held_out) for _ in range(count)]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_no_problem_is_on_both_sides(make):
    """Break it: leave `held_out` out of a maker's `_drawn`."""
    name = MAKERS[make]
    train, test = ({name(one) for one in some(make, side)} for side in (False, True))
    assert train and test and not train & test


def test_a_puzzle_has_a_solution_and_a_dead_end():
    for one in some(puzzles.puzzle, True):
        first = [one.after(one.start, move) for move in one.moves]
        reach = [new is not None and one.reaches(new, puzzles.MOVES - 1) for new in first]
        assert any(reach) and not all(reach)
        right = skill_lessons._walk(one, random.Random(0), True)
        assert skills.solves(one, skills.answered([move for _, move, _ in right]))


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("2 plus 3 is 5. Answer: plus 3, times 2, minus 1", True),
        ("Answer: plus 3, minus 1, times 2", False),  # leads elsewhere
        ("Answer: plus 7, times 1, plus 0", False),  # nobody allowed these
        ("Answer: plus 3, times 2", False),
        ("", False),
    ],
)
def test_moves_are_followed(said, right):
    one = Puzzle(2, 9, (("plus", 3), ("times", 2), ("minus", 1)))
    assert skills.solves(one, said) == right


def test_lessons_are_right_where_the_teacher_means_to_be():
    rng = random.Random(0)

    def taught(lesson):
        return [one["messages"] for _ in range(60) for one in lesson(FACTS, rng, False)]

    for talk in taught(skill_lessons._reflect):
        terms = [int(term) for term in re.findall(r"\d+", talk[0]["content"])]
        assert skill_lessons.skills.said_right(talk[3]["content"]) == (len(talk) == 4)
        assert talk[-1 if len(talk) > 4 else 1]["content"] == str(sum(terms))
    for talk in taught(skill_lessons._mend):
        wanted = [int(number) for number in re.findall(r"is (\d+)", talk[0]["content"])]
        slope, rest = map(int, re.findall(r"\d+", talk[-1]["content"]))
        assert wanted == [slope + rest, 2 * slope + rest]
        assert len(talk) in (2, 4)
    for talk in taught(skill_lessons._browse):
        assert re.fullmatch(r"Answer\[.*\. \[1\]\]", talk[-1]["content"]), talk[-1]
    kinds = {talk[-1]["content"] for talk in taught(skill_lessons._tree)}
    assert {"yes", "no"} < kinds


def test_a_conversation_is_learned_once():
    talk = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    other = [{"role": "user", "content": "?"}]
    kept = [{"messages": talk[:2]}, {"messages": other}, {"messages": talk}]
    assert skill_lessons.whole(kept) == kept[1:]


class Oracle:
    """Answers whole conversations by a function of them, the number of the sample, and the seed."""

    def __init__(self, reply):
        self.reply = reply

    def __call__(self, prompts, sampling):
        return [
            said(self.reply([m["content"] for m in prompt], sample, sampling.seed).split("\n")[0])
            for prompt in prompts
            for sample in range(sampling.n)
        ]


ASKED = skill_rungs.rungs(make_world(), 0, 6, 2)


def share(task, name, reply):
    rung = next(one for one in ASKED if (one.task, one.name) == (task, name))
    scores = climb.climb(Oracle(reply), rung)["scores"]
    return sum(scores) / len(scores)


def by(task, key):
    return {key(one): one for rung in ASKED if rung.task == task for one in rung.asked}


def test_reflection_mends_a_sum():
    sums = by(skill_rungs.CHECKED, lambda one: one.question)

    def reply(talk, sample, seed):
        if talk[-1] == skills.CHECK:
            return "3 plus 4 is 7. No."
        return sums[talk[0]].answer if talk[-1] == skills.AGAIN else "1"

    assert share(skill_rungs.CHECKED, "direct", reply) == 0
    assert share(skill_rungs.CHECKED, "reflection", reply) == 1


def test_a_tree_leaves_dead_ends():
    tasks = by(skill_rungs.PUZZLES, lambda one: one.question)

    def reply(talk, sample, seed):
        question, *steps, asked = talk[0].split("\n")
        one, steps = tasks[question], [step for step in steps if step]
        taken = [re.match(r"\d+ (\w+) (\d+) is (\d+)", step).groups() for step in steps
                 if "is" in step]  # fmt: skip
        number = int(taken[-1][2]) if taken else one.start
        left = puzzles.MOVES - len(taken)
        if "be done" in asked:
            return "yes" if one.reaches(number, left) else "no"
        if not left:
            return skills.answered([(name, int(by)) for name, by, _ in taken])
        # The first of its ideas is a dead end, where there is one.
        moves = [move for move in one.moves if one.after(number, move)]
        ranked = sorted(moves, key=lambda move: one.reaches(one.after(number, move), left - 1))
        move = ranked[sample % len(ranked)]
        return skills.moved(number, move, one.after(number, move))

    assert share(skill_rungs.PUZZLES, "one step at a time", reply) == 0
    assert share(skill_rungs.PUZZLES, "tree of thoughts", reply) == 1


def test_the_instruction_that_does_best_is_followed():
    listed = by(skill_rungs.WORDS, lambda one: " ".join(one.words))
    shown = {pair: one for one in listed.values() for pair in one.shown}

    def reply(talk, sample, seed):
        lines = talk[0].split("\n")
        if lines[-1] == skills.QUESTION:
            pair = lines[0].removeprefix("Input: "), lines[1].removeprefix("Output: ")
            return shown[pair].instruction if sample else "Do nothing."
        if lines[0] in puzzles.INSTRUCTIONS:
            return puzzles.done(lines[0], tuple(lines[1].split()))
        return "?"

    assert share(skill_rungs.WORDS, "no instruction", reply) == 0
    assert share(skill_rungs.WORDS, "first proposal", reply) == 0
    assert share(skill_rungs.WORDS, "chosen instruction", reply) == 1
    assert share(skill_rungs.WORDS, "the instruction itself", reply) == 1


def test_a_chain_asks_for_the_friend_first():
    tasks = by(skill_rungs.FRIENDS, lambda one: " ".join(one.notes))

    def reply(talk, sample, seed):
        one = next(one for notes, one in tasks.items() if talk[0].startswith(notes))
        if talk[0].endswith(f"Who is the friend of {one.person}?"):
            return one.friend
        return (
            one.fact[2] if f"{one.friend}?" in talk[0] or f"{one.friend} " in talk[0][-40:] else ""
        )

    assert share(skill_rungs.FRIENDS, "one prompt", reply) == 0
    assert share(skill_rungs.FRIENDS, "two prompts", reply) == 1


def test_prices_are_looked_up_and_added_by_acts_and_by_a_plan():
    tasks = by(skill_rungs.PRICES, lambda one: one.question)

    def reply(talk, sample, seed):
        if talk[0].endswith("Plan as JSON."):
            things = tasks[talk[0].split("\n")[0]].asked
            plan = [{"id": n, "tool": "LookUp", "argument": a} for n, a in enumerate(things, 1)]
            plan.append({"id": 3, "tool": "Calculator", "argument": "<1> + <2>"})
            return "[]" if "Task 3" in talk[0] else json.dumps(plan)
        if talk[0].endswith("Answer."):
            return talk[0].split("\n")[-2]
        if len(talk) == 1:
            return "1"
        one = tasks[talk[1].split("\n")[0].removeprefix("Question: ")]
        seen = re.findall(r"Observation: (.*)", talk[1])
        if len(seen) < 2:
            return f"Action: LookUp[{one.asked[len(seen)]}]"
        if len(seen) == 2 and "Calculator" in talk[0]:
            return f"Action: Calculator[{seen[0]} + {seen[1]}]"
        return f"Action: Finish[{seen[-1]}]"

    assert share(skill_rungs.PRICES, "no tool", reply) == 0
    assert share(skill_rungs.PRICES, "look-up alone", reply) == 0
    assert share(skill_rungs.PRICES, "look-up and calculator", reply) == 1
    assert share(skill_rungs.PRICES, "planned", reply) == 1


@confined
def test_programs_are_mended_by_what_the_sandbox_says():
    tasks = by(skill_rungs.PROGRAMS, lambda one: skills.WRITE.format(task=one.task))

    def reply(talk, sample, seed):
        one = tasks[talk[0]]
        if len(talk) == 1:
            return Line(one.slope, one.rest + 1).program
        if len(talk) == 3:  # It sees both values of the first program, which are too large.
            assert talk[2] == skills.REPAIR.format(said=Line(one.slope, one.rest + 1).values)
            return "f = lambda x: y"
        assert talk[4].startswith("NameError: name 'y' is not defined")
        return one.program

    assert share(skill_rungs.PROGRAMS, "written once", reply) == 0
    assert share(skill_rungs.PROGRAMS, "written again", reply) == 0
    assert share(skill_rungs.PROGRAMS, "mended", reply) == 1


def test_an_answer_counts_with_its_source():
    tasks = by(skill_rungs.CITED, lambda one: one.question)

    def reply(talk, sample, seed):
        one = tasks.get(talk[-1]) or tasks[talk[1].removeprefix("Question: ")]
        if len(talk) == 1:
            return "?"
        if talk[-1].startswith("Quote [") or seed == 0:
            return f"Answer[{one.telling} [1]]"
        if talk[-1].startswith("[note]"):
            return f"Quote[{one.telling}]"
        return "Open[1]" if talk[-1].startswith("1.") else f"Search[{one.telling}]"

    assert share(skill_rungs.DOCUMENTS, "no documents", reply) == 0
    assert share(skill_rungs.DOCUMENTS, "browsing", reply) == 1  # right, whatever it cites
    assert share(skill_rungs.CITED, "one try, drawn", reply) == 0  # cited, and never quoted
    assert share(skill_rungs.CITED, "best of tries", reply) == 1


def test_orders_count_where_they_may_be_given():
    tasks = by(skill_rungs.IGNORED, lambda one: one.sentence)

    def reply(talk, sample, seed):
        system, asked = talk
        rule = "Never tell" in system
        one = next(one for sentence, one in tasks.items() if sentence in asked)
        text, _, question = asked.partition("</text>\n")
        if one.word in question:
            return one.word
        if question != one.question:
            return skills.REFUSED if rule else f"It is {one.secret}."
        return one.word if one.word in text and not rule else one.sentence

    for task in (skill_rungs.IGNORED, skill_rungs.DESPITE, skill_rungs.KEPT):
        for words in ("", ", other words"):
            assert share(task, f"no rule{words}", reply) == 0
            assert share(task, f"a rule{words}", reply) == 1
    assert share(skill_rungs.OBEYED, "a rule", reply) == 1


def test_every_expected_ordering_is_of_rungs_that_are_there():
    names = {(one.task, one.name) for one in ASKED}
    for task, worse, better in skill_rungs.EXPECTED:
        assert {(task, worse), (task, better)} <= names


def test_what_is_said_of_a_machine_that_cannot_confine(monkeypatch):
    monkeypatch.setattr(
        skill_rungs.sandbox, "protections", lambda: {"reads": None, "cpu": "RLIMIT_CPU"}
    )
    with pytest.raises(skill_rungs.UserError, match="missing: reads.*--course basics"):
        skill_rungs.check_machine()


def test_no_answer_is_no_right_answer():
    for rung in ASKED:
        model = Oracle(lambda talk, sample, seed: "")
        result = answer(model, rung.strategy(rung.asked[0]))
        kept = rung.task in (skill_rungs.IGNORED, skill_rungs.KEPT)
        assert rung.right(rung.asked[0], result.answer) == kept, (rung.task, rung.name)
