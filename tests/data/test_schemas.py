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


# Conversations as replies.

SYSTEM = {"role": "system", "content": "Be brief."}
NO = {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": [REPLY], "rejected": [NO]},
        {"prompt": [USER], "chosen": [USER, REPLY], "rejected": [USER, NO]},
        {"prompt": "Why?", "chosen": [USER, REPLY], "rejected": [USER, NO]},
        {"prompt": "Why? ", "chosen": [USER, REPLY], "rejected": "No."},
        {"prompt": [USER], "completions": [[REPLY], [USER, NO]], "ranks": [0, 1]},
        {"chosen": [USER, REPLY], "rejected": [USER, NO]},
        {"messages": [USER, REPLY], "chosen": [USER, REPLY], "rejected": [USER, NO]},
        {"prompt": "Why?", "chosen": REPLY, "rejected": {"content": "No."}},
        {"prompt": "Why?", "chosen": "Why? Because.", "rejected": "Why?\nNo."},
        {"instruction": "Why?", "chosen": "Why? Because.", "rejected": "Why?\nNo."},
        {
            "prompt": "Why?",
            "chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
            "rejected": "\n\nHuman: Why?\n\nAssistant: No.",
        },
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "Because."}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "No."}]}],
        },
    ],
)
def test_a_prompt_is_said_once(row):
    canonical = to_comparison(row)
    text = canonical["prompt"][0]["content"].strip()
    assert {**canonical, "prompt": [{"role": "user", "content": text}]} == {
        "prompt": [USER],
        **PAIR,
    }
    if "completions" not in row and "prompt" not in row and "instruction" not in row:
        assert to_prompt(row)["prompt"] == [USER]


@pytest.mark.parametrize(
    ("prompt", "reply"), [("Hi", "Hi there"), ("Good day!", "Good day! I am here."), ("2", "2 3")]
)
def test_a_greeting_may_be_returned(prompt, reply):
    row = {"prompt": prompt, "chosen": reply, "rejected": f"{prompt} x"}
    assert to_comparison(row)["completions"] == [reply, f"{prompt} x"]


def test_a_system_turn_may_stand_in_the_prompt_or_in_the_replies():
    whole = [SYSTEM, USER]
    for row in (
        {"prompt": [USER], "chosen": [*whole, REPLY], "rejected": [*whole, NO]},
        {"prompt": whole, "chosen": [USER, REPLY], "rejected": [USER, NO]},
        {"prompt": whole, "chosen": [*whole, REPLY], "rejected": [*whole, NO]},
    ):
        assert to_comparison(row) == {"prompt": whole, **PAIR}


def test_conversations_that_part_early_or_go_on():
    """The first reply in which they differ is compared."""
    go_on = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "So."}]
    row = {"prompt": [USER], "chosen": [REPLY, *go_on], "rejected": [NO, *go_on]}
    assert to_comparison(row) == {"prompt": [USER], **PAIR}
    row = {"chosen": [USER, REPLY, *go_on[:1], REPLY], "rejected": [USER, REPLY, *go_on[:1], NO]}
    assert to_comparison(row) == {"prompt": [USER, REPLY, go_on[0]], **PAIR}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "completion": [REPLY]},
        {"prompt": "Why?", "completion": [REPLY]},
        {"prompt": [USER], "completion": [USER, REPLY]},
        {"prompt": "Why?", "completion": "\n\nHuman: Why?\n\nAssistant: Because."},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, REPLY]},
        {"messages": [USER, {**REPLY, "tool_calls": None, "function_call": None}]},
        {"messages": [{"role": "system", "content": " "}, USER, REPLY]},
        {"messages": [{"role": "system", "content": None}, USER, REPLY]},
    ],
)
def test_demonstrations_of_conversations(row):
    assert to_demonstration(row) == {"messages": [USER, REPLY]}


def test_a_completion_of_several_turns_stays_whole():
    row = {"prompt": [SYSTEM, USER], "completion": [REPLY, USER, NO]}
    assert to_demonstration(row) == {"messages": [SYSTEM, USER, REPLY, USER, NO]}


@pytest.mark.parametrize(
    ("completions", "ranks", "canonical"),
    [
        (["a", "a"], [0, 1], [0, 0]),
        (["a", "a", "b"], [0, 1, 2], [0, 0, 1]),
        (["b", "a", "a"], [0, 2, 1], [0, 1, 1]),
        (["a", "b", "a", "b"], [0, 2, 1, 3], [0, 1, 0, 1]),
        (["a", "a", "a"], [2, 0, 1], [0, 0, 0]),
    ],
)
def test_equal_completions_among_others_are_ties(completions, ranks, canonical):
    row = {"prompt": "Why?", "completions": completions, "ranks": ranks}
    assert to_comparison(row)["ranks"] == canonical


@pytest.mark.parametrize("ranks", [[0, 1, 2], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
def test_ranks_that_contradict_themselves(ranks):
    row = {"prompt": "Why?", "completions": ["a", "b", "a"], "ranks": ranks}
    with pytest.raises(UserError, match="two completions are equal, but by the ranks"):
        to_comparison(row)
    assert to_comparison({**row, "stopped": [True, True, False]})["ranks"] == ranks


# Transcripts as they are written.


@pytest.mark.parametrize(
    "written",
    [
        TRANSCRIPT.replace("\n", "\r\n"),
        TRANSCRIPT.lstrip(),
        TRANSCRIPT[1:],
        TRANSCRIPT.lstrip().replace("\n", "\r\n"),
        f"\n{TRANSCRIPT} ",
    ],
)
def test_transcripts_with_other_line_ends_and_beginnings(written):
    whole = {"chosen": f"{written} Because.", "rejected": f"{written} No."}
    cut = {"prompt": written, "chosen": "Because.", "rejected": "No."}
    assert to_comparison(whole) == to_comparison(cut) == {"prompt": TURNS, **PAIR}
    assert to_prompt(whole)["prompt"] == to_prompt(written)["prompt"] == TURNS


def test_a_pasted_name_opens_no_turn():
    """A mark counts only after an empty line, and never inside a list of turns."""
    pasted = "Why?\nAssistant: I must.\nHuman: Yes"
    text = f"\n\nHuman: {pasted}\n\nAssistant:"
    assert to_prompt(text)["prompt"] == [{"role": "user", "content": pasted}]
    forged = {"role": "user", "content": "\n\nHuman: Hi\n\nAssistant: Yes\n\nHuman: Why?"}
    for row in (
        {"messages": [forged]},
        {"prompt": [forged]},
        {"conversations": [{"from": "human", "value": forged["content"]}]},
        {"instruction": forged["content"]},
    ):
        assert to_prompt(row)["prompt"] == [forged]
    spoken = {"role": "assistant", "content": "\n\nHuman: a\n\nAssistant: b"}
    row = {"prompt": "Why?", "chosen": spoken["content"], "rejected": "No."}
    assert to_comparison(row)["completions"] == [spoken["content"], "No."]
    assert to_demonstration({"messages": [USER, spoken]}) == {"messages": [USER, spoken]}


def test_two_replies_in_a_row_are_one():
    start = "\n\nHuman: Why?\n\nAssistant: Well."
    row = {"chosen": f"{start}\n\nAssistant: Because.", "rejected": f"{start}\n\nAssistant: No."}
    canonical = to_comparison(row)
    assert canonical["prompt"] == [USER]
    assert canonical["completions"] == ["Well.\n\nBecause.", "Well.\n\nNo."]
    assert to_prompt(row)["prompt"] == [USER]
    for broken in (to_prompt, to_comparison):
        with pytest.raises(UserError, match="end with a turn of the user"):
            broken({"prompt": f"{start}\n\nAssistant:", "chosen": "Because.", "rejected": "No."})


def test_a_human_turn_without_words():
    blank = {"chosen": "\n\nHuman: \n\nAssistant: a", "rejected": "\n\nHuman: \n\nAssistant: b"}
    for convert in (to_comparison, to_prompt):
        with pytest.raises(UserError, match="end with a turn of the user"):
            convert(blank)


def test_transcripts_that_part_in_a_turn_of_the_user_are_a_tie():
    start = "\n\nHuman: Why?\n\nAssistant: Because.\n\nHuman:"
    row = {"chosen": f"{start} Oh\n\nAssistant: x", "rejected": f"{start} Eh\n\nAssistant: y"}
    canonical = to_comparison(row)
    assert canonical["prompt"] == [USER] and canonical["ranks"] == [0, 0]


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
            {"prompt": "a", "completions": ["a", "b"], "ranks": [0, math.nan]},
            "whole",
        ),
    ],
)
def test_broken_rows(convert, row, said):
    with pytest.raises(UserError, match=said) as caught:
        convert(row)
    assert not isinstance(caught.value, NotADemonstration)
