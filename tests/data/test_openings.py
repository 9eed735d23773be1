"""Openings begin held-out text, are different, and leave room to go on."""

import json

import pytest

from gpt_jax.data.config import DataConfig
from gpt_jax.data.openings import DOCUMENTS, LETTERS, QUESTIONS, begin, openings
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["the cat sat on the mat and looked at the moon"] * 4, 280)


def written(folder, name, rows):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def data(folder, texts, questions=("what is it?",)) -> DataConfig:
    rows = [{"prompt": question} for question in questions]
    return DataConfig(
        text=written(folder, "text.jsonl", [{"text": "to train on"}]),
        test_text=written(folder, "test.jsonl", [{"text": text} for text in texts]),
        prompts=written(folder, "prompts.jsonl", [{"prompt": "to train on?"}]),
        test_prompts=written(folder, "test_prompts.jsonl", rows),
    )


@pytest.mark.parametrize(
    ("text", "begun"),
    [
        ("a bb  c\nd e f g h i j k l m", "a bb  c\nd e f"),
        ("a -> b\nc -> d", "a -> b"),
        ("word", "word"),
        ("  indented line of text", "  indented line"),
        ("x" * 1000, "x" * LETTERS),
        (" \n\t", ""),
    ],
)
def test_an_opening_is_the_first_words_of_its_document(text, begun):
    assert begin(text) == begun


def test_of_the_microworld_they_are_documents_and_questions():
    found = openings(DataConfig(), TOKENIZER, 64, 0)
    assert len(found) == DOCUMENTS + QUESTIONS == len(set(found))
    texts = [row["text"] for row in DataConfig().read("text", "test")]
    assert all(any(text.startswith(one) for text in texts) for one in found[:DOCUMENTS])
    asked = [chat.as_document(row["prompt"]) for row in DataConfig().read("prompts", "test")]
    assert set(found[DOCUMENTS:]) <= set(asked)
    assert found == openings(DataConfig(), TOKENIZER, 64, 0)
    assert found != openings(DataConfig(), TOKENIZER, 64, 1)


def test_they_are_drawn_by_what_the_rows_say(tmp_path):
    """Break it: take the first rows of the file."""
    texts = [f"text number {i} of many that follow it" for i in range(100)]
    there, back = (tmp_path / name for name in ("there", "back"))
    there.mkdir(), back.mkdir()
    found = [
        openings(data(folder, some), TOKENIZER, 64, 0)
        for folder, some in ((there, texts), (back, texts[::-1]))
    ]
    assert len(found[0]) == DOCUMENTS + 1
    assert not set(found[0][:DOCUMENTS]) <= {begin(text) for text in texts[:DOCUMENTS]}
    drawn = [{begin(t) for t in texts if begin(t) in some} for some in found]
    assert drawn[0] and all(len(some) == DOCUMENTS for some in drawn)


def test_another_world_is_not_asked_about_the_microworld(tmp_path):
    """Break it: leave out the condition on `in_microworld`."""
    path = written(tmp_path, "own.jsonl", [{"text": f"text {i} of mine"} for i in range(200)])
    found = openings(DataConfig(text=path), TOKENIZER, 64, 0)
    assert found and not any("User:" in one for one in found)
    own = data(tmp_path, ["one two three four"], ["what is it?", "who?"])
    assert openings(own, TOKENIZER, 64, 0) == [
        "one two",
        "User: what is it?\nAssistant:",
        "User: who?\nAssistant:",
    ]


HOSTILE = ["\N{SNOWMAN}" * 500, "a" * 5000, "\x00\x01\x02", "</td><script>x</script> and so on"]


@pytest.mark.parametrize("longest", [0, 1, 2, 5, 16])
def test_what_is_too_long_is_cut_or_not_asked(longest, tmp_path):
    """Every opening is read again as at most so many tokens."""
    found = openings(data(tmp_path, HOSTILE, ["why? " * 400]), TOKENIZER, longest, 0)
    assert all(len(chat.render_opening(one, TOKENIZER)) <= longest for one in found)
    assert not any("why" in one for one in found)
    assert bool(found) == (longest > 2)  # <eos>, and a space before the first word


def test_equal_openings_are_one(tmp_path):
    texts = ["the same beginning of it all " + end * 9 for end in ("x ", "y ", "z ")]
    assert openings(data(tmp_path, texts, ["who?"]), TOKENIZER, 64, 0) == [
        "the same beginning of it all",
        "User: who?\nAssistant:",
    ]
