"""Every layout becomes its canonical row, and every broken row is named for what it is."""

import json
import math

import pytest

from gpt_jax.data.schemas import (
    NotADemonstration,
    to_comparison,
    to_demonstration,
    to_document,
    to_prompt,
)
from gpt_jax.errors import UserError

USER = {"role": "user", "content": "Why?"}
REPLY = {"role": "assistant", "content": "Because."}
SYSTEM = {"role": "system", "content": "Be brief."}
NO = {"role": "assistant", "content": "No."}
PAIR = {"completions": ["Because.", "No."], "ranks": [0, 1], "stopped": [True, True]}


@pytest.mark.parametrize("row", ["Some text.", {"text": "Some text."}])
def test_documents(row):
    assert to_document(row) == {"text": "Some text."}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, REPLY]},
        {"prompt": "Why?", "completion": "Because."},
        {"prompt": [USER], "completion": "Because."},
        {"instruction": "Why?", "input": "", "output": "Because."},
        {"instruction": "Why?", "instances": [{"input": "", "output": "Because."}]},
        {
            "conversations": [
                {"from": "human", "value": "Why?"},
                {"from": "gpt", "value": "Because."},
            ]
        },
    ],
)
def test_demonstrations(row):
    canonical = to_demonstration(row)
    assert canonical == {"messages": [USER, REPLY]}
    assert to_demonstration(canonical) == canonical  # canonical rows are a layout themselves
    assert to_prompt(row)["prompt"] == [USER]


def test_alpaca_input_follows_the_instruction():
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    assert to_demonstration(row)["messages"][0]["content"] == "Add.\n\n1 and 2"


def test_what_was_said_before():
    """LLaMA-Factory's `system` and `history`."""
    said = [SYSTEM, USER, REPLY, {"role": "user", "content": "And?"}]
    alpaca = {"instruction": "And?", "history": [["Why?", "Because."]], "system": "Be brief."}
    assert to_prompt(alpaca)["prompt"] == said
    assert to_demonstration({**alpaca, "output": "So."})["messages"][:4] == said
    sharegpt = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    for system in ("", None):
        row = {"conversations": sharegpt, "system": system}
        assert to_demonstration(row) == {"messages": [USER, REPLY]}
    row = {"conversations": sharegpt, "system": "Be brief."}
    assert to_demonstration(row) == {"messages": [SYSTEM, USER, REPLY]}


def test_system_turn():
    turns = [{"role": "system", "content": "Be brief."}, USER, REPLY]
    assert to_demonstration({"messages": turns}) == {"messages": turns}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        {"prompt": [USER], "chosen": "Because.", "rejected": "No."},
        {"prompt": "Why?", "completions": ["Because.", "No."], "ranks": [0, 1]},
        {"prompt": "Why?", "completions": ["Because.", "No."], "ranks": [1, 2]},
        {
            "instruction": "Why?",
            "input": "",
            "output": "x",
            "chosen": "Because.",
            "rejected": "No.",
        },
        {
            "conversations": [{"from": "human", "value": "Why?"}],
            "chosen": {"from": "gpt", "value": "Because."},
            "rejected": "No.",
        },
        {
            "chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
            "rejected": "\n\nHuman: Why?\n\nAssistant: No.",
        },
    ],
)
def test_comparisons(row):
    canonical = to_comparison(row)
    assert canonical == {"prompt": [USER], **PAIR}
    assert to_comparison(canonical) == canonical
    assert to_prompt(row)["prompt"] == [USER]


def test_ranked_completions_keep_ties_and_marks():
    row = {
        "prompt": "Why?",
        "completions": ["a", "b", ""],
        "ranks": [3, 1, 3],
        "stopped": [True, True, False],
    }
    assert to_comparison(row) == {**row, "prompt": [USER], "ranks": [1, 0, 1]}


def test_a_margin_says_how_clear_a_preference_is():
    row = {"prompt": "Why?", "chosen": "a", "rejected": "b"}
    assert "degrees" not in to_comparison(row) | to_comparison(row | {"margin": None})
    assert to_comparison(row | {"margin": 3})["degrees"] == [3.0, 0.0]
    for wrong in ("3", True, float("nan"), [1]):
        with pytest.raises(UserError, match="`margin` must be a number"):
            to_comparison(row | {"margin": wrong})


def test_equal_completions_are_a_tie():
    row = {"prompt": "Why?", "chosen": "Same.", "rejected": "Same."}
    assert to_comparison(row)["ranks"] == [0, 0]
    assert to_comparison({**row, "chosen_stopped": False})["ranks"] == [0, 1]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "answer": "Because.", "nested": {"steps": [1, 2.5, None]}},
        {"instruction": "Why?", "output": "Because."},
        {"messages": [USER], "source": 7},
        {"prompt": "Why?", "chosen": "a", "rejected": "b"},
    ],
)
def test_a_prompt_keeps_its_record(row):
    assert to_prompt(row) == {"prompt": [USER], "record": row}


@pytest.mark.parametrize(
    "row",
    [
        "Why?",
        {"prompt": "Why?"},
        {"prompt": [USER]},
        {"messages": [USER, REPLY]},
        {"messages": [USER]},
    ],
)
def test_prompts(row):
    assert to_prompt(row)["prompt"] == [USER]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, {"role": "assistant", "content": " "}]},
        {"instruction": "Why?", "input": "", "output": ""},
        {"prompt": "Why?", "completion": ""},
        {"messages": [USER, REPLY], "label": False},
        {"prompt": "Why?", "completion": "No.", "label": 0},
    ],
)
def test_not_demonstrations(row):
    with pytest.raises(NotADemonstration):
        to_demonstration(row)


@pytest.mark.parametrize(
    ("convert", "row", "said"),
    [
        (to_document, {"texts": "a"}, "`text` is missing"),
        (to_document, {"text": ""}, "`text` is empty"),
        (to_document, {"text": 3}, "must be a string, not int"),
        (to_document, ["a"], "JSON object, not list"),
        (to_demonstration, {"text": "a"}, "a demonstration needs"),
        (to_demonstration, {"messages": []}, "`messages` is empty"),
        (to_demonstration, {"messages": "a"}, "must be a list"),
        (to_demonstration, {"messages": [USER]}, "ends with the assistant"),
        (to_demonstration, {"messages": [REPLY]}, "alternate"),
        (to_demonstration, {"messages": [USER, USER, REPLY]}, "alternate"),
        (to_demonstration, {"messages": [{"role": "robot", "content": "a"}]}, "needs `role`"),
        (to_demonstration, {"messages": [{"role": "user", "content": 1}, REPLY]}, "not int"),
        (to_demonstration, {"messages": [{"role": "user", "content": ""}, REPLY]}, "is empty"),
        (to_demonstration, {"instruction": "Why?", "input": ""}, "`output` must be a string"),
        (to_demonstration, {"instruction": "Why?", "instances": []}, "`instances` must be"),
        (to_comparison, {"prompt": "Why?", "chosen": "a"}, "a comparison needs"),
        (to_comparison, {"prompt": "Why?", "chosen": "a", "rejected": 1}, "`rejected` must be"),
        (to_comparison, {"chosen": "a", "rejected": "b"}, "must be a transcript"),
        (
            to_comparison,
            {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"},
            "share no turn",
        ),
        (to_comparison, {"prompt": "Why?", "completions": ["a"], "ranks": [0]}, "at least 2"),
        (to_comparison, {"prompt": "Why?", "completions": ["a", "b"], "ranks": [0]}, "1 ranks"),
        (
            to_comparison,
            {"prompt": "Why?", "completions": ["a", 2], "ranks": [0, 1]},
            "be a string",
        ),
        (to_comparison, {"prompt": "Why?", "completions": ["a", "b"], "ranks": [0, 0.5]}, "whole"),
        (to_comparison, {"prompt": "", "chosen": "a", "rejected": "b"}, "`prompt` is empty"),
        (to_prompt, {"question": "Why?"}, "a prompt needs"),
        (to_prompt, {"prompt": 1}, "not int"),
        (to_prompt, {"prompt": [REPLY]}, "end with a turn of the user"),
        (to_prompt, 7, "JSON object, not int"),
        (to_demonstration, {"messages": [{"role": ["user"], "content": "a"}]}, "not list"),
        (to_demonstration, {"messages": [{"role": {}, "content": "a"}]}, "not dict"),
        (to_demonstration, {"messages": [{"from": None, "value": "a"}]}, "not null"),
        (to_demonstration, {"messages": [{"role": "user", "content": None}]}, "not null"),
        (to_demonstration, {"messages": [USER, {"role": "assistant", "content": None}]}, "null"),
        (to_demonstration, {"messages": ["a"]}, "turn 1 of `messages` needs `role`"),
        (to_demonstration, {"messages": [SYSTEM]}, "ends with the assistant"),
        (to_demonstration, {"messages": [{"role": "system", "content": ""}]}, "is empty"),
        (to_demonstration, {"messages": [USER, {"role": "tool", "content": "4"}]}, "a tool"),
        (
            to_demonstration,
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
            "turn 2 of `messages` calls a tool",
        ),
        (
            to_demonstration,
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, REPLY]},
            "`content` in turn 1 of `messages` has a part of type `image_url`",
        ),
        (to_prompt, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "is null"),
        (to_prompt, {"messages": [{"role": "user", "content": ["a"]}]}, "a part that is not"),
        (to_prompt, {"instruction": "Why?", "input": 3}, "`input` must be a string, not int"),
        (to_prompt, {"prompt": "a\ud83d"}, r"character 2 .* after a, is .ud83d, half of a surr"),
        (to_prompt, {"prompt": "a", "meta": [{"b": "\udc00"}]}, "half of a surrogate"),
        (to_prompt, {"prompt": "a", "\ud83d": 1}, "half of a surrogate"),
        (to_document, "\ud83d", "half of a surrogate"),
        (to_demonstration, {"prompt": "a", "completion": "\ud83d"}, "half of a surrogate"),
        (to_comparison, {"prompt": "a", "chosen": "\ud83d", "rejected": "b"}, "half of a surr"),
        (to_prompt, {"prompt": json.loads("[" * 900 + "]" * 900)}, "more than 50 deep"),
        (to_document, {"text": "a", "x": json.loads('{"a":' * 300 + "1" + "}" * 300)}, "50 deep"),
        (
            to_comparison,
            {"prompt": [USER], "chosen": [{**USER, "content": "Oh?"}, REPLY], "rejected": [NO]},
            "`chosen` begins with other turns than the prompt",
        ),
        (to_comparison, {"chosen": [USER, REPLY], "rejected": [NO]}, "share no turn"),
        (to_comparison, {"chosen": [USER, REPLY], "rejected": "No."}, "share no turn"),
        (
            to_comparison,
            {"prompt": [USER, REPLY, USER], "chosen": [USER, REPLY, USER], "rejected": [NO]},
            "`chosen` has no reply after the prompt",
        ),
        (
            to_comparison,
            {"prompt": "a", "completions": ["a", "b"], "ranks": [0, math.nan]},
            "whole",
        ),
    ],
)
def test_broken_rows(convert, row, said):
    with pytest.raises(UserError, match=said) as caught:
        convert(row)
    assert not isinstance(caught.value, NotADemonstration)
