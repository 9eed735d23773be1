"""Every strategy with a scripted model: what it asks, in which order, and what it makes of it."""

import json

import pytest

from gpt_jax.errors import UserError
from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting import (
    agent,
    ape,
    chains,
    context,
    debug,
    planner,
    privilege,
    thought,
    tools,
    tree,
)
from gpt_jax.prompting.strategy import Ask, answer, answer_all
from tests.prompting.scripted import Scripted


def contents(prompt):
    return [(m["role"], m["content"]) for m in prompt]


def test_strategies_run_side_by_side_and_count_what_they_cost():
    """Three questions of different lengths take as many calls as the longest. Break it: run one
    after the other."""

    def counting(times):
        for number in range(times):
            (found,) = yield Ask([f"{times}:{number}"])
        return found.text

    model = Scripted(lambda words, sample: f"to {words}")
    found = answer_all(model, counting, [1, 3, 2])
    assert [one.answer for one in found] == ["to 1:0", "to 3:2", "to 2:1"]
    assert model.calls == 3
    assert [(one.read, one.written, one.calls) for one in found] == [
        (10, 2, 1),
        (30, 6, 3),
        (20, 4, 2),
    ]


def test_who_never_ends_is_ended_and_the_others_are_not():
    def steps(question):
        while question == "on and on":
            yield Ask(["more"])
        return question

    ends, goes_on = answer_all(Scripted(lambda w, s: w), steps, ["done", "on and on"], rounds=5)
    assert ends.answer == "done" and ends.failed is None
    assert goes_on.answer is None and "5 rounds" in goes_on.failed and goes_on.calls == 5

    def nothing(question):
        yield Ask([])

    with pytest.raises(UserError, match="asked nothing"):
        answer(Scripted(lambda w, s: w), nothing(""))


def test_shots_stand_before_the_question():
    model = Scripted(lambda words, sample: "yes")
    shots = [("1?", "one"), ("2?", "two")]
    answer(model, context.direct("3?", shots, "be brief"))
    assert contents(model.asked[0]) == [
        ("system", "be brief"),
        ("user", "1?"),
        ("assistant", "one"),
        ("user", "2?"),
        ("assistant", "two"),
        ("user", "3?"),
    ]
    answer(model, context.persona("3?"))
    assert contents(model.asked[1])[0] == ("system", context.EXPERT)
    answer(model, context.be_sure("3?"))
    assert model.asked[2][-1]["content"] == f"3?\n{context.BE_SURE}"


def test_a_chain_of_thought_gives_its_last_number():
    model = Scripted(lambda words, sample: "3 + 4 = 7, and 7 + 1,000 = 1,007.")
    assert answer(model, thought.chain_of_thought("?")).answer == "1007"
    assert model.asked[0][-1]["content"].endswith(thought.STEP_BY_STEP)
    assert thought.last_number("it is none ") == "it is none"


def test_the_majority_is_taken_and_of_ties_the_first():
    votes = ["7", "8", "so 8", "7", "9"]
    model = Scripted(lambda words, sample: votes[sample])
    assert answer(model, thought.self_consistency("?", n=5)).answer == "7"
    assert answer(model, thought.self_consistency("?", n=3)).answer == "8"
    assert model.calls == 2  # one call for all chains


def test_reflection_keeps_what_is_good_and_mends_what_is_not():
    def reply(words, sample):
        if words == thought.CHECK:
            return "No, it does not rhyme."
        return "a better one" if words == thought.AGAIN else "a first one"

    assert answer(Scripted(reply), thought.reflection("a poem")).answer == "a better one"
    content = Scripted(lambda w, s: "Yes!" if w == thought.CHECK else "good")
    result = answer(content, thought.reflection("a poem", times=3))
    assert result.answer == "good" and result.calls == 2


def test_the_tree_goes_on_with_the_best_steps():
    """A puzzle in which the step that looks best first leads nowhere in a chain, but not in a beam:
    digits are chosen, the sum shall be 10."""

    def reply(words, sample):
        steps = words.split("Steps so far:\n")[1].split("\n")
        steps = [int(s) for s in steps if s.strip().lstrip("-").isdigit()]
        if "number from 0 to 10" in words:
            return str(10 - abs(10 - sum(steps)))
        if sum(steps) == 10:
            return f"Answer: {'+'.join(map(str, steps))}"
        return str((7, 5, 4)[sample])

    model = Scripted(reply)
    result = answer(model, tree.tree_of_thoughts("?", branches=3, beam=2, depth=3))
    assert result.answer == "5+5"


def test_instructions_are_proposed_and_the_best_is_kept():
    def reply(words, sample):
        if words.startswith("I gave a friend"):
            return ["Say it loud.", "Say it backwards.", "Say it loud."][sample]
        instruction, _, word = words.rpartition("\n")
        return word[::-1] if "backwards" in instruction else word

    steps = ape.propose_and_select(
        [("abc", "cba")],
        [("xy", "yx"), ("pq", "qp")],
        score=lambda right, said: float(right == said),
        candidates=3,
    )
    found = answer(Scripted(reply), steps).answer
    assert found[0] == (1.0, "Say it backwards.")
    assert [one for _, one in found].count("Say it loud.") == 1


def test_a_chain_of_prompts_hands_its_answers_on():
    model = Scripted(lambda words, sample: f"<{words}>")
    links = [("outline", "Outline {topic}"), ("text", "Write {outline} on {topic}")]
    found = answer(model, chains.chain({"topic": "cats"}, links)).answer
    assert found["text"] == "<Write <Outline cats> on cats>"
    with pytest.raises(UserError, match="needs 'outlines'"):
        answer(model, chains.chain({"topic": "cats"}, [("text", "Write {outlines}")]))


@pytest.mark.parametrize(
    "expression, value",
    [
        ("12 * (3 + 4)", "84"),
        ("1,000 - 1", "999"),
        ("2/3", "0.6666666667"),
        ("7 // 2 + 7 % 2", "4"),
        ("-3 \N{MULTIPLICATION SIGN} 2", "-6"),
        ("0.1 + 0.2", "0.3"),
    ],
)
def test_the_calculator_is_exact(expression, value):
    assert tools.calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        *("1 / 0", "9 ** 9 ** 9", "__import__('os')", "(1", "", "a + 1", "1 if 1 else 2", "True"),
        "(" * 500 + "1" + ")" * 500,
        "9" * 100 + "*" + "9" * 100,
        "x" * 10**6,
    ],
    ids=range(11),
)
def test_a_bad_expression_is_an_answer_not_an_end(expression):
    assert tools.use([tools.CALCULATOR], "calculator", expression).startswith("Error: ")


def test_a_react_agent_acts_sees_and_finishes():
    def reply(words, sample):
        if "Observation: Pilo" in words:
            return "Thought: so it is Pilo.\nAction: Finish[Pilo]"
        # It would go on to invent what it sees, if nobody cut it.
        return "Thought: look.\nAction: LookUp[mira]\nObservation: Mira lives in Fada.\nAction: X[]"

    model = Scripted(reply)
    known = tools.look_up({"Mira": "Pilo"})
    result = answer(model, agent.react("Where?", [known, tools.CALCULATOR]))
    assert result.answer == "Pilo" and result.calls == 2
    assert "LookUp[...]" in model.asked[0][0]["content"]
    assert "Fada" not in model.asked[1][-1]["content"]


def test_a_react_agent_hears_of_its_mistakes_and_is_limited():
    said = iter(["I do not know.", "Action: Fly[away]", "Action: Calculator[1/0]", "Action: X[1]"])
    model = Scripted(lambda words, sample: next(said))
    assert answer(model, agent.react("?", [tools.CALCULATOR], limit=4)).answer is None
    last = model.asked[-1][-1]["content"]
    assert "there is no action" in last and "no tool 'Fly'" in last and "Error: " in last


def test_a_plan_is_done_in_the_order_of_what_it_needs():
    plan = [
        {"id": 2, "tool": "Calculator", "argument": "<1> + 1", "needs": [1]},
        {"id": 1, "tool": "Calculator", "argument": "6 * 7", "needs": []},
    ]
    said = iter(["no plan", json.dumps(plan), "[]", "It is 43."])
    model = Scripted(lambda words, sample: next(said))
    result = answer(model, planner.plan_and_do("?", [tools.CALCULATOR]))
    assert result.answer == ("It is 43.", {1: "42", 2: "43"})
    assert "could not be read: there is no JSON list" in model.asked[1][-1]["content"]


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("[{]", "no JSON"),
        ("[3]", "needs an id"),
        ('[{"id": 1, "tool": "T", "argument": "", "needs": 2}]', "needs a list of numbers"),
        ('[{"id": 1, "tool": "T", "argument": "<2>", "needs": ["a"]}]', "needs a list of numbers"),
        ('[{"id": 1, "tool": "T", "argument": "", "needs": [{}]}]', "needs a list of numbers"),
        ('[{"id": 1, "tool": "T", "argument": "<2>"}, {"id": 2, "tool": "T", "argument": "<1>"}]',
         "wait for each other"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_done_says_why(text, wrong):
    with pytest.raises(ValueError, match=wrong):
        planner.read_plan(text)


def test_programs_are_repaired_until_they_run():
    def try_out(code):
        return None if "return x + 1" in code else "AssertionError: f(1)"

    said = iter(
        ["```python\ndef f(x):\n    return x\n```", "```\ndef f(x):\n    return x + 1\n```"]
    )
    model = Scripted(lambda words, sample: next(said))
    code, passed, repairs = answer(model, debug.self_debug("add one", try_out)).answer
    assert passed and repairs == 1 and code.endswith("return x + 1\n")
    assert "AssertionError: f(1)" in model.asked[1][-1]["content"]
    never = Scripted(lambda words, sample: "pass")
    assert answer(never, debug.self_debug("?", try_out, repairs=2)).answer[1:] == (False, 2)


def test_programs_are_tested_in_the_sandbox():
    try_out = debug.tested("assert f(1) == 2")
    assert try_out("def f(x): return x + 1") is None
    assert "failed" in try_out("def f(x): return x")


def test_plugins_are_described_by_openapi():
    document = {
        "paths": {
            "/weather": {
                "get": {"operationId": "weather", "summary": "the weather of a town",
                        "parameters": [{"name": "town"}]},
            }
        }
    }  # fmt: skip
    sent = []
    (tool,) = tools.from_openapi(document, lambda *call: sent.append(call) or "sunny")
    assert tools.described([tool]) == "weather[...]: the weather of a town (town)"
    assert tools.use([tool], "weather", "Fada") == "sunny"
    assert sent == [("GET", "/weather", "Fada")]
    with pytest.raises(UserError, match="no operationId"):
        tools.from_openapi({"paths": {"/x": {"get": {}}}}, print)


def test_attempts_that_succeed_are_counted_by_kind():
    def weak(words, sample):
        return privilege.TOKEN if privilege.TOKEN in words else "I may not."

    verdict = privilege.judge(Scripted(weak))
    assert verdict.succeeded["leak"] == 0
    assert verdict.succeeded["injection by a user"] == len(privilege.ORDERS)
    assert verdict.share == pytest.approx(2 / 3)
    leaky = privilege.judge(Scripted(lambda w, s: f"It is {privilege.SECRET.upper()}."))
    assert leaky.succeeded["leak"] == len(privilege.LEAKS)
    assert privilege.judge(Scripted(lambda w, s: "It is 31 metres high.")).share == 0


def test_sampling_that_differs_is_asked_apart():
    def steps(temperature):
        (found,) = yield Ask(["?"], Sampling(temperature=temperature))
        return found.text

    model = Scripted(lambda words, sample: "ok")
    answer_all(model, steps, [0.0, 1.0, 0.0])
    assert model.calls == 2
