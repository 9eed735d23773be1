"""Marked answers: how they are read, made of comparisons, and laid out for KTO."""

import json

import numpy as np
import pytest

from gpt_jax.data import schemas
from gpt_jax.data.config import DataConfig
from gpt_jax.data.feedback import mismatched, pad_feedback, unpair
from gpt_jax.data.left_out import LeftOut
from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer

ASKED = [{"role": "user", "content": "what?"}]
ROW = {"prompt": "what?", "completion": "this.", "label": True}


@pytest.mark.parametrize("label", [True, 1, "true", "True", "1", False, 0, "false", "0"])
def test_a_row_is_read(label):
    good = label in (True, "true", "True", "1")
    expected = {"prompt": ASKED, "completion": "this.", "label": good, "stopped": True}
    assert schemas.to_feedback(ROW | {"label": label}) == expected
    turns = {"prompt": ASKED, "completion": [{"role": "assistant", "content": "this."}]}
    assert schemas.to_feedback(turns | {"label": label}) == expected


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label": "perhaps"}, "`label` must be true or false, not 'perhaps'"),
        ({"label": None}, "`label` must be true or false"),
        ({"label": 2}, "`label` must be true or false"),
        ({"stopped": "yes"}, "`stopped` must be true or false"),
        ({"completion": 7}, "`completion` must be a string"),
        ({"completion": "", "stopped": False}, "nothing to learn from"),
        ({"prompt": ""}, "."),
    ],
)
def test_a_broken_row_is_one_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        schemas.to_feedback(ROW | change)
    with pytest.raises(UserError, match="feedback needs .* but the keys are"):
        schemas.to_feedback({"prompt": "what?", "chosen": "a", "rejected": "b"})


def test_a_file_of_them(tmp_path):
    rows = [ROW | {"prompt": f"what is {n}?", "label": n % 3 > 0} for n in range(60)]
    path = tmp_path / "thumbs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(feedback=str(path))
    read = data.read("feedback", "train") + data.read("feedback", "test")
    assert len(read) == 60 and sum(row["label"] for row in read) == 40
    path.write_text(path.read_text() + '{"prompt": "and?", "completion": "no."}\n')
    with pytest.raises(UserError, match="thumbs.jsonl:61.*feedback needs"):
        DataConfig(feedback=str(path)).read("feedback", "train")
    with pytest.raises(UserError, match="microworld has no marked answers"):
        DataConfig(feedback="microworld").read("feedback", "train")
    with pytest.raises(UserError, match="test_feedback is .* no data.feedback"):
        DataConfig(test_feedback=str(path))


def test_ranked_answers_are_taken_apart():
    comparison = {
        "prompt": ASKED,
        "completions": ["best", "middle", "worst"],
        "ranks": [0, 1, 2],
        "stopped": [True, True, False],
    }
    left_out = LeftOut()
    rows = unpair([comparison], left_out, "answers")
    assert [(r["completion"], r["label"], r["stopped"]) for r in rows] == [
        ("best", True, True),
        ("worst", False, False),
    ]
    assert left_out.sentences() == [
        "1 answers left out, as they are neither good nor bad among their prompt's"
    ]
    tie = comparison | {"ranks": [0, 0, 1]}
    assert [row["label"] for row in unpair([tie], LeftOut(), "answers")] == [True, True, False]
    assert unpair([comparison | {"ranks": [0, 0, 0]}], LeftOut(), "answers") == []


def rows_of(counts):
    """So many marked answers to each prompt."""
    return [
        {
            "prompt": [{"role": "user", "content": f"what is {p}?"}],
            "completion": f"{p}, {n}.",
            "label": n % 2 == 0,
            "stopped": True,
        }
        for p, count in enumerate(counts)
        for n in range(count)
    ]


@pytest.mark.parametrize("counts", [[1, 1], [3, 1, 2], [4, 4], [5, 1, 1, 1, 1, 1], [2] * 9])
def test_every_prompt_meets_an_answer_to_another(counts):
    """Break it: shift by one row, as is done where rows are shuffled first."""
    rows = rows_of(counts)
    np.random.default_rng(0).shuffle(rows)
    found = mismatched(rows, "answers")
    for row, pair in zip(rows, found, strict=True):
        own, other = pair["completions"]
        assert own == row["completion"] and pair["prompt"] == row["prompt"]
        assert own.partition(",")[0] != other.partition(",")[0]
    others = [pair["completions"][1] for pair in found]
    assert sorted(others) == sorted(row["completion"] for row in rows), "each is used once"


def test_one_prompt_alone_has_no_other():
    with pytest.raises(UserError, match="5 of the 8 rows of answers have one prompt"):
        mismatched(rows_of([5, 3]), "answers")


def test_rows_are_laid_out_with_their_numbers():
    rows = rows_of([2, 2, 2])
    rows[3]["completion"] = "far too long " * 40
    tokenizer = Tokenizer.train([row["completion"] for row in rows] * 5, 264)
    left_out = LeftOut()
    found, numbers = pad_feedback(rows, tokenizer, 60, left_out, "answers")
    gone = {3} | {
        n for n, pair in enumerate(mismatched(rows, "x")) if "far" in pair["completions"][1]
    }
    assert set(numbers) == set(range(6)) - gone and len(gone) == 2
    assert left_out.total() == 2
    assert found.signs_B.tolist() == [1 if rows[n]["label"] else -1 for n in numbers]
    assert found.kl_B is None
    for row, n in enumerate(numbers):
        own = found.tokens_BKT.ids[row, 0][found.weights_BKT[row, 0] > 0].tolist()
        assert tokenizer.decode(own[:-1]).strip() == rows[n]["completion"]
        assert own[-1] in tokenizer.stop_ids, "the stop token is learned"
