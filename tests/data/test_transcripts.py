"""hh-rlhf transcripts as people have them, and turns that only look like some."""

import pytest

from gpt_jax.data.schemas import to_comparison, to_demonstration, to_prompt
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
