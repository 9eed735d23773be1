"""Which rows a configuration names, and what is known of them before anything is trained."""

import json

import pytest

from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError

PAIRS = [{"prompt": f"Question {i}?", "chosen": "Yes.", "rejected": "No."} for i in range(400)]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_tokenizer_sees_the_demonstrations_that_are_named(tmp_path):
    text, chats = tmp_path / "text.txt", tmp_path / "chats.jsonl"
    text.write_text("Thou art. " * 50)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    chats.write_text(json.dumps({"messages": messages}) + "\n")
    alone = list(DataConfig(text=str(text)).tokenizer_texts())
    assert alone and all("Thou" in piece for piece in alone)
    both = list(DataConfig(text=str(text), demonstrations=str(chats)).tokenizer_texts())
    assert both == [*alone, "hi", "hello"]


def test_what_is_read_may_be_changed_and_is_read_anew_when_the_file_changes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl([{"text": f"document {i}"} for i in range(200)]))
    config = DataConfig(text=str(path))
    first, before = config.read("text", "train"), config.fingerprints()["text"]
    first[0]["text"] = "changed by its reader"
    assert config.read("text", "train")[0]["text"] != "changed by its reader"
    path.write_text(jsonl([{"text": f"another {i}"} for i in range(200)]))
    assert config.read("text", "train")[0]["text"].startswith("another")
    assert config.fingerprints()["text"] != before


def test_one_side_without_rows_is_an_error(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(jsonl([PAIRS[0]] * 200))
    config = DataConfig(comparisons=str(path))
    with pytest.raises(UserError, match="none of its 200 rows .*--data.test-comparisons"):
        config.check()


@pytest.mark.parametrize("split", ["train", "test"])
def test_comparisons_that_compare_nothing_are_an_error(tmp_path, split):
    """As soon as they are read: a single stage looks at nothing else."""
    good, ties = tmp_path / "good.jsonl", tmp_path / "ties.jsonl"
    good.write_text(jsonl(PAIRS))
    ties.write_text(jsonl([{**row, "rejected": row["chosen"]} for row in PAIRS]))
    named = {"comparisons": str(good), "test_comparisons": str(ties)}
    if split == "train":
        named = {"comparisons": str(ties), "test_comparisons": str(good)}
    with pytest.raises(UserError, match=f"ties.jsonl: all 400 comparisons of the {split} part are"):
        DataConfig(**named).read("comparisons", split)
    assert len(DataConfig(**named).read("prompts", split)) == 400


def test_held_out_rows_that_are_trained_on_are_counted(tmp_path, capsys):
    mine, mixed = tmp_path / "mine.jsonl", tmp_path / "mixed.jsonl"
    mine.write_text(jsonl(PAIRS))
    others = [{**row, "prompt": f"Another: {row['prompt']}"} for row in PAIRS[:40]]
    mixed.write_text(jsonl(PAIRS[:9] + others))
    DataConfig(comparisons=str(mine), test_comparisons=str(mixed)).check()
    said = "mixed.jsonl: 9 of its 49 held-out comparisons are trained on, too"
    assert said in capsys.readouterr().err


def test_a_prompt_of_a_comparison_keeps_the_whole_record(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(jsonl([{**row, "answer": i} for i, row in enumerate(PAIRS)]))
    config = DataConfig(comparisons=str(path))
    for split in ("train", "test"):
        prompts, pairs = config.read("prompts", split), config.read("comparisons", split)
        assert [row["prompt"] for row in prompts] == [row["prompt"] for row in pairs]
        records = [row["record"] for row in prompts]
        assert all(row["prompt"] == f"Question {row['answer']}?" for row in records)
        assert not any("record" in row for row in pairs)


CHATS = [{"prompt": f"Chat {i}?", "completion": "So it is.", "about": i} for i in range(400)]


def test_prompts_are_those_of_what_is_named(tmp_path):
    """Of comparisons before those of demonstrations; the microworld's where neither is."""
    pairs, chats = tmp_path / "pairs.jsonl", tmp_path / "chats.jsonl"
    pairs.write_text(jsonl(PAIRS)), chats.write_text(jsonl(CHATS))
    for named, begin in (
        ({"demonstrations": str(chats)}, "Chat"),
        ({"demonstrations": str(chats), "comparisons": str(pairs)}, "Question"),
        ({"demonstrations": str(chats), "prompts": str(pairs)}, "Question"),
    ):
        data = DataConfig(**named)
        for split in ("train", "test"):
            rows = data.read("prompts", split)
            assert all(row["prompt"][-1]["content"].startswith(begin) for row in rows)
            assert not data.in_microworld("prompts", split)
        if begin == "Chat":
            assert all(row["prompt"][-1]["content"] == row["record"]["prompt"] for row in rows)
    for named in ({}, {"demonstrations": str(chats), "comparisons": "microworld"}):
        data = DataConfig(**named)
        assert data.read("prompts", "test") == DataConfig().read("prompts", "test")
        assert data.in_microworld("prompts", "test") and data.in_microworld("prompts", "train")
    mixed = DataConfig(test_prompts=str(pairs))
    assert mixed.in_microworld("prompts", "train") and not mixed.in_microworld("prompts", "test")


def test_held_out_comparisons_alone_are_refused():
    with pytest.raises(UserError, match="no data.comparisons .*; name both"):
        DataConfig(test_comparisons="pairs.jsonl")
