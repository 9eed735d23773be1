"""Packing, padding and the step-indexed pipeline."""

import jax
import numpy as np
import pytest

from gpt_jax.data import packing, pipeline
from gpt_jax.data.batches import Batch, Tokens, pad_prompts, pad_rows
from gpt_jax.data.left_out import LeftOut
from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["some words to learn from, and then some more words"] * 20, 280)


def examples(seed=0, n=40):
    rng = np.random.default_rng(seed)
    return [([5 + i] * k, [1] * k) for i, k in enumerate(rng.integers(2, 30, n))]


def test_packing_keeps_every_token_once_and_numbers_segments():
    """Invariant 7. Break `weights_BT[where] = [0, ...]` or the segment numbers to see it fail."""
    batch = packing.pack(examples(), 32, pad_id=0)
    seen = {}
    tokens_BT = batch.tokens_BT
    for b in range(len(batch.weights_BT)):
        for segment in range(1, tokens_BT.segment_ids[b].max() + 1):
            where = np.flatnonzero(tokens_BT.segment_ids[b] == segment)
            assert (np.diff(where) == 1).all()
            tokens = tokens_BT.ids[b, where]
            assert len(set(tokens)) == 1
            seen[int(tokens[0])] = len(tokens)
            assert tokens_BT.positions[b, where].tolist() == list(range(len(where)))
            assert batch.weights_BT[b, where].tolist() == [0] + [1] * (len(where) - 1)
    assert seen == {ids[0]: len(ids) for ids, _ in examples()}
    padding = tokens_BT.segment_ids == 0
    assert not batch.weights_BT[padding].any() and not tokens_BT.ids[padding].any()


def test_packing_is_tight():
    batch = packing.pack(examples(n=400), 64, pad_id=0)
    assert (batch.tokens_BT.segment_ids > 0).mean() > 0.97


def test_an_example_with_nothing_to_learn_is_an_error():
    """Invariant 7: an all-zero mask is an error. Break the `any(mask[1:])` check."""
    with pytest.raises(UserError, match="example 2 has no token to learn"):
        packing.pack([([1, 2], [0, 1]), ([1, 2, 3], [1, 0, 0])], 8, pad_id=0)


def test_nothing_is_cut_where_rows_are_filled():
    """Invariant 14: what is too long is shortened and counted before."""
    with pytest.raises(ValueError, match="longer than the row of 4"):
        packing.pack([(list(range(10)), [0] * 7 + [1] * 3)], 4, pad_id=0)
    with pytest.raises(ValueError, match="longer than the row of 4"):
        pad_prompts([[1, 2, 3, 4, 5]], 4, pad_id=0)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 100])
def test_split_documents_predict_every_token_but_the_first_once(n):
    pieces = packing.split_document(list(range(n)), 8)
    predicted = [token for piece in pieces for token in piece[1:]]
    assert predicted == list(range(1, n))
    assert max(map(len, pieces)) <= 8


def test_documents_end_with_a_learned_eos(tokenizer):
    batch = packing.pack_documents([{"text": "some words"}], tokenizer, 32)
    real = batch.tokens_BT.segment_ids[0] > 0
    ids = batch.tokens_BT.ids[0, real]
    assert ids[0] == ids[-1] == tokenizer.eos_id
    assert batch.weights_BT[0, real].tolist() == [0] + [1] * (len(ids) - 1)


def test_comparisons_end_with_eos_only_if_stopped(tokenizer):
    row = {
        "prompt": [{"role": "user", "content": "words"}],
        "completions": ["some", "some more", "some"],
        "ranks": [0, 1, 1],
        "stopped": [True, True, False],
    }
    rows = packing.pad_comparisons(
        [row, row | {"completions": ["to"], "stopped": [True]}], tokenizer, 64, LeftOut()
    )
    lengths = (rows.tokens_BKT.segment_ids > 0).sum(-1)
    last = [rows.tokens_BKT.ids[0, k, lengths[0, k] - 1] for k in range(3)]
    assert [t == tokenizer.eos_id for t in last] == [True, True, False]
    assert rows.ranks_BK.tolist() == [[0, 1, 1], [0, -1, -1]]
    assert lengths[1, 1] == 0


def test_degrees_are_kept_where_all_comparisons_have_them(tokenizer):
    row = {
        "prompt": [{"role": "user", "content": "words"}],
        "completions": ["some", "more"],
        "ranks": [0, 1],
        "stopped": [True, True],
    }
    graded = [row | {"degrees": [2.5, 0.0]}, row | {"degrees": [1.0, 0.0]}]
    rows = packing.pad_comparisons(graded, tokenizer, 64, LeftOut())
    assert rows.degrees_BK.tolist() == [[2.5, 0.0], [1.0, 0.0]]
    mixed = packing.pad_comparisons([row, graded[0]], tokenizer, 64, LeftOut())
    assert mixed.degrees_BK is None


def test_prompts_are_padded_on_the_left():
    tokens_BP = pad_prompts([[7, 8], [2, 3, 4, 5]], 4, pad_id=0).tokens_BP
    assert tokens_BP.ids.tolist() == [[0, 0, 7, 8], [2, 3, 4, 5]]
    assert tokens_BP.positions.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert tokens_BP.segment_ids.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


def rows_of(n):
    column = np.arange(n)[:, None]
    return Batch(Tokens(column, column, column), column)


def test_an_epoch_visits_every_row_once_and_reshuffles():
    """Shuffling is computed: 3 epochs of 10 rows in batches of 4, each epoch another order."""
    numbers = np.concatenate([pipeline.row_numbers(s, 4, 10, seed=1) for s in range(8)])[:30]
    epochs = numbers.reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_batches_are_a_function_of_the_step_alone():
    batch_at = pipeline.make_batch_at(rows_of(10), 4, seed=3)
    later = [batch_at(step).tokens_BT.ids for step in (5, 2, 5)]
    fresh = pipeline.make_batch_at(rows_of(10), 4, seed=3)
    np.testing.assert_array_equal(later[0], fresh(5).tokens_BT.ids)
    np.testing.assert_array_equal(later[0], later[2])


def test_processes_share_one_global_batch():
    whole = pipeline.make_batch_at(rows_of(20), 8, 0)(3)
    parts = [pipeline.make_batch_at(rows_of(20), 8, 0, (i, 4))(3).tokens_BT.ids for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.tokens_BT.ids)
    with pytest.raises(UserError, match="does not divide over 3 processes"):
        pipeline.make_batch_at(rows_of(20), 8, 0, (0, 3))


def test_rows_are_filled_with_empty_ones():
    rows = pad_rows(rows_of(5), 4)
    assert all(len(x) == 8 for x in jax.tree.leaves(rows))
    assert not rows.weights_BT[5:].any()
