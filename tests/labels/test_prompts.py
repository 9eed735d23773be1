"""Which prompts are asked: different ones, drawn by what they say, that fit."""

import json

import pytest

from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError
from gpt_jax.labels.prompts import choose
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

TEXTS = [f"Question {n}: {'what is that? ' * (n % 9)}" for n in range(300)]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(iter(TEXTS), 280)


def data(folder, rows):
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(prompts=str(folder / "prompts.jsonl"))


def test_no_prompt_is_asked_twice_and_the_shortest_come_first(tokenizer, tmp_path):
    rows = [{"prompt": text, "copy": copy} for copy in range(3) for text in TEXTS]
    asked = choose(data(tmp_path, rows), {"train": 100, "test": 5}, tokenizer, 100, seed=0)
    assert (asked.count("train"), asked.count("test")) == (100, 5)
    texts = [row["prompt"][0]["content"] for row in asked.rows]
    assert len(set(texts)) == 105 and asked.lengths == sorted(asked.lengths)
    assert all(row["record"]["copy"] == 0 for row in asked.rows)
    lengths = [len(chat.render_prompt(row["prompt"], tokenizer)) for row in asked.rows]
    assert lengths == asked.lengths
    assert max(lengths) + 10 <= asked.longest(10) < max(lengths) + 18
    other = choose(data(tmp_path, rows[::-1]), {"train": 100, "test": 5}, tokenizer, 100, seed=1)
    assert {row["prompt"][0]["content"] for row in other.rows} != set(texts)


def test_what_does_not_fit_is_counted(tokenizer, tmp_path):
    """Invariant 14."""
    old = [{"role": "user", "content": "old " * 30}, {"role": "assistant", "content": "yes"}]
    rows = [{"prompt": text} for text in TEXTS]
    rows += [{"prompt": [*old, {"role": "user", "content": f"and {n}?"}]} for n in range(300)]
    asked = choose(data(tmp_path, rows), {"train": 10**6, "test": 10**6}, tokenizer, 30, seed=0)
    assert max(asked.lengths) <= 30
    said = "; ".join(asked.left_out.sentences())
    assert "prompts left out, as they do not fit 30 tokens" in said
    assert "prompts shortened by their oldest turns to fit 30 tokens" in said
    with pytest.raises(UserError, match="none of the prompts fits in 3 tokens"):
        choose(data(tmp_path, rows), {"train": 5, "test": 5}, tokenizer, 3, seed=0)
