"""Every layout becomes its canonical row, and every broken row is named for what it is."""

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
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Hello. What is it?\n\nHuman: Why?\n\nAssistant:"
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello. What is it?"},
    USER,
]
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


def test_equal_completions_are_a_tie():
    row = {"prompt": "Why?", "chosen": "Same.", "rejected": "Same."}
    assert to_comparison(row)["ranks"] == [0, 0]
    assert to_comparison({**row, "chosen_stopped": False})["ranks"] == [0, 1]


def test_transcripts():
    whole = {"chosen": f"{TRANSCRIPT} Because.", "rejected": f"{TRANSCRIPT} No."}
    cut = {"prompt": TRANSCRIPT, "chosen": "Because.", "rejected": "No."}
    assert to_comparison(whole) == to_comparison(cut) == {"prompt": TURNS, **PAIR}
    assert to_prompt(whole)["prompt"] == to_prompt(cut)["prompt"] == TURNS


def test_transcripts_that_part_early():
    """Only the first reply in which they differ is compared."""
    row = {
        "chosen": "\n\nHuman: Why?\n\nAssistant: Because.\n\nHuman: Ok\n\nAssistant: Bye",
        "rejected": "\n\nHuman: Why?\n\nAssistant: No.\n\nHuman: Oh\n\nAssistant: Bye",
    }
    assert to_comparison(row) == {"prompt": [USER], **PAIR}


def test_transcripts_with_silent_turns():
    text = "\n\nHuman: Hi\n\nAssistant:\n\nHuman: Why?\n\nAssistant:"
    assert to_prompt({"prompt": text})["prompt"] == [{"role": "user", "content": "Hi\n\nWhy?"}]


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
    ],
)
def test_broken_rows(convert, row, said):
    with pytest.raises(UserError, match=said) as caught:
        convert(row)
    assert not isinstance(caught.value, NotADemonstration)
