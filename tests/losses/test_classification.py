"""Classes of texts: the loss in float64, what padding does to it, and the rows it is made of."""

import json

import jax
import numpy as np
import pytest

from gpt_jax.data import classification
from gpt_jax.data.batches import pad_rows
from gpt_jax.data.classification import Labelled
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.microworld import make_world
from gpt_jax.data.microworld.statements import statements
from gpt_jax.errors import UserError
from gpt_jax.losses.classification import classification_loss
from gpt_jax.models import forward
from gpt_jax.models.heads import init_class_head, last_logits
from gpt_jax.text.tokenizer import Tokenizer
from tests import tiny

CLASSES = 3
ROWS = tiny.random_rows(np.random.default_rng(0), 5)
LABELS = np.int32([0, 2, 1, 1, 0])
PARAMS = {
    "backbone": tiny.params(),
    "head": jax.tree.map(lambda x: 40.0 * x, init_class_head(jax.random.key(1), tiny.MODEL, 3)),
}
loss = jax.jit(classification_loss, static_argnums=0, static_argnames="auxiliary")


def batch(width=24):
    return Labelled(tiny.padded(ROWS, width).tokens_BT, LABELS)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_loss_is_that_of_the_paper():
    """Row by row in float64. Break it: read the class at the last column, or weigh by tokens."""
    hidden = np.asarray(forward(tiny.MODEL, PARAMS["backbone"], batch().tokens_BT)[0], np.float64)
    kernel = np.asarray(PARAMS["head"]["kernel_DC"], np.float64)
    nll, beside, right = [], [], []
    for b, row in enumerate(ROWS):
        logp = log_softmax(hidden[b, len(row) - 1] @ kernel)
        nll.append(-logp[LABELS[b]])
        right.append(logp.argmax() == LABELS[b])
        logits = last_logits(tiny.MODEL, PARAMS["backbone"], np.float32(hidden[b, : len(row) - 1]))
        beside.append(-np.mean(log_softmax(logits)[np.arange(len(row) - 1), row[1:]]))
    total, count, metrics = loss(tiny.MODEL, PARAMS, batch())
    assert count == len(ROWS)
    np.testing.assert_allclose(total, np.sum(nll) + 0.5 * np.sum(beside), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"][0], np.sum(nll), rtol=1e-5)
    np.testing.assert_allclose(metrics["language_loss"][0], np.sum(beside), rtol=1e-5)
    assert metrics["accuracy"][0] == np.sum(right)


def test_padding_and_empty_rows_change_nothing():
    """Invariant 1."""
    plain = loss(tiny.MODEL, PARAMS, batch())
    other = loss(tiny.MODEL, PARAMS, pad_rows(batch(40), 4))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_without_the_auxiliary_loss_there_is_none():
    total, _, metrics = loss(tiny.MODEL, PARAMS, batch(), auxiliary=0.0)
    assert "language_loss" not in metrics and total == metrics["loss"][0]


def test_statements_are_true_where_the_note_says_so():
    world = make_world()
    for split in ("train", "test"):
        rows = list(statements(world, split, 300))
        assert 100 < sum(row["label"] == "true" for row in rows) < 200
        for row in rows:
            said = world.question(f"{row['premise']} Where is the key?").said
            facts = world._recognise.notes.facts_in(row["hypothesis"])
            assert any(fact in said for fact in facts) == (row["label"] == "true")


def test_no_premise_is_on_both_sides():
    sides = (classification.read("microworld", split) for split in ("train", "test"))
    train, test = ({row["texts"][0] for row in rows} for rows in sides)
    assert not train & test


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the cat sat on the mat and saw a dog"] * 3, 300)


def test_texts_are_laid_out_one_behind_the_other(tokenizer):
    rows = [{"texts": ["the cat", "a dog"], "label": "b"}, {"texts": ["mat"], "label": "a"}]
    left_out = LeftOut()
    found = classification.lay_out(rows, ["a", "b"], tokenizer, 32, left_out, "rows")
    assert found.labels_B.tolist() == [1, 0] and not left_out
    length = int((found.tokens_BT.segment_ids[0] > 0).sum())
    ids = found.tokens_BT.ids[0, :length].tolist()
    assert ids[0] == tokenizer.document_id and ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids[1:-1]) == " the cat\n a dog"


def test_what_is_cut_is_counted(tokenizer):
    rows = [{"texts": ["the cat sat on the mat " * 9, "a dog"], "label": "a"}]
    left_out = LeftOut()
    found = classification.lay_out(rows, ["a"], tokenizer, 16, left_out, "rows")
    assert found.tokens_BT.ids.shape == (1, 16) and found.tokens_BT.segment_ids.all()
    assert left_out.sentences() == [f"1 rows {classification.CUT} 16 tokens (of 1)"]
    assert tokenizer.decode(found.tokens_BT.ids[0, :-1].tolist()).endswith("\n a dog")
    with pytest.raises(UserError, match="leaves no room"):
        classification.lay_out(rows, ["a"], tokenizer, 4, left_out, "rows")
    with pytest.raises(UserError, match="'b' is none"):
        rows = [{"texts": ["a"], "label": "b"}]
        classification.lay_out(rows, ["a"], tokenizer, 16, left_out, "rows")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"text": "a"}, "label"),
        ({"text": "a", "label": -1}, "label"),
        ({"text": "a", "label": -2}, "label"),
        ({"text": "a", "label": 0.5}, "label"),
        ({"text": "", "label": 0}, "empty"),
        ({"words": "a", "label": 0}, "no text"),
    ],
)
def test_a_broken_row_is_named(row, why, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "a", "label": 0}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=f"rows.jsonl:2.*{why}"):
        classification.read(str(path), "all")


def test_rows_of_a_file_are_divided_and_classes_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"sentence1": f"a{n}", "sentence2": "b", "label": n % 2} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, test = (classification.read(str(path), split) for split in ("train", "test"))
    assert len(train) + len(test) == 200 and 2 <= len(test) <= 30
    assert classification.classes_of(train) == ["0", "1"]
    with pytest.raises(UserError, match="nothing to tell apart"):
        classification.classes_of(train[:1])


def test_no_rows_are_said_before_a_width_is_sought(tokenizer):
    """Break it: the longest of no rows; a file of two rows has none that is held out."""
    with pytest.raises(UserError, match="no held-out rows.*--test"):
        classification.lay_out([], ["a", "b"], tokenizer, 32, LeftOut(), "held-out rows")
    with pytest.raises(UserError, match="no rows to train on"):
        classification.classes_of([])
