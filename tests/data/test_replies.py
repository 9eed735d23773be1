"""Replies as conversations: the prompt is said once, and equal replies are ties."""

import pytest

from gpt_jax.data.schemas import to_comparison, to_demonstration, to_prompt
from gpt_jax.errors import UserError

USER = {"role": "user", "content": "Why?"}
REPLY = {"role": "assistant", "content": "Because."}
SYSTEM = {"role": "system", "content": "Be brief."}
NO = {"role": "assistant", "content": "No."}
PAIR = {"completions": ["Because.", "No."], "ranks": [0, 1], "stopped": [True, True]}


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
