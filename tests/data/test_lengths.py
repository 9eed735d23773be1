"""Batches of rows of alike length: the same rows, the same numbers, less padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.data.batches import pad_rows
from gpt_jax.data.lengths import GROUP, ByLength, lengths_of, narrowed, sorted_by_length, width_for
from gpt_jax.data.pipeline import make_batch_at
from gpt_jax.losses.ranking import ranking_loss
from gpt_jax.models.heads import init_scorer
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.train.evaluate import HeldOut
from gpt_jax.train.state import TrainState
from tests import tiny

ROWS, SIZE = 4 * GROUP, 4  # an epoch is a group


@pytest.fixture(scope="module")
def rows():
    return tiny.comparisons(np.random.default_rng(0), ROWS, 2, 64)


def test_an_epoch_visits_every_row_once_in_another_order_each_time(rows):
    """Break it: sort the whole data set, or leave out the permutation of the batches."""
    batch_at = ByLength(rows, SIZE, seed=3, share=(0, 1))
    epochs = [[batch_at.numbers(e * GROUP + step) for step in range(GROUP)] for e in range(2)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch)) == list(range(ROWS))
    assert not np.array_equal(epochs[0], epochs[1])
    widths = [batch_at.width(step) for step in range(GROUP)]
    assert widths != sorted(widths)


@pytest.mark.parametrize("number", [1, 20, 40])
def test_few_rows_are_each_visited_once_an_epoch(number):
    """Break it: groups of several epochs, whose batches are copies of one row."""
    batch_at = ByLength(tiny.comparisons(np.random.default_rng(0), number, 2, 64), SIZE, 3, (0, 1))
    visits = np.concatenate([batch_at.numbers(step) for step in range(5 * GROUP)])
    for epoch in visits[: len(visits) // number * number].reshape(-1, number):
        assert sorted(epoch) == list(range(number))


def test_rows_of_a_batch_are_alike_and_nothing_of_them_is_cut(rows):
    """Break it: a width for the mean length, or unsorted rows."""
    grouped, plain = ByLength(rows, SIZE, 3, (0, 1)), make_batch_at(rows, SIZE, 3)
    padding = {"grouped": 0, "plain": 0}
    for step in range(GROUP):
        batch, numbers = grouped(step), grouped.numbers(step)
        width = batch.tokens_BKT.ids.shape[-1]
        assert width == grouped.width(step) and width % 8 == 0
        assert grouped.tokens(step) == batch.tokens_BKT.ids.size
        np.testing.assert_array_equal(batch.tokens_BKT.ids, rows.tokens_BKT.ids[numbers, :, :width])
        assert (batch.weights_BKT.sum((1, 2)) == rows.weights_BKT[numbers].sum((1, 2))).all()
        np.testing.assert_array_equal(batch.ranks_BK, rows.ranks_BK[numbers])
        for name, one in (("grouped", batch), ("plain", plain(step))):
            padding[name] += (one.tokens_BKT.segment_ids == 0).sum()
    assert padding["grouped"] < 0.2 * padding["plain"]


def test_two_processes_hold_the_halves_of_the_same_batches(rows):
    """Break it: the width of the process's own rows, which would be two programs."""
    whole = ByLength(rows, SIZE, 3, (0, 1))
    for step in range(GROUP):
        halves = [dataclasses.replace(whole, share=(i, 2))(step) for i in range(2)]
        for part, *two in zip(*map(jax.tree.leaves, (whole(step), *halves)), strict=True):
            np.testing.assert_array_equal(part, np.concatenate(two))


def test_the_loss_of_a_cut_batch_is_that_of_the_whole(rows):
    """Invariant 1."""
    batch = jax.tree.map(lambda x: x[:SIZE], rows)
    scorer = init_scorer(tiny.MODEL, tiny.params(), jax.random.key(1))
    (whole, *_), (cut, *_) = (ranking_loss(tiny.MODEL, scorer, b) for b in (batch, narrowed(batch)))
    assert narrowed(batch).tokens_BKT.ids.shape[-1] < 64
    np.testing.assert_allclose(cut, whole, rtol=1e-6)


def test_held_out_metrics_do_not_know_how_rows_were_grouped(rows):
    """Break it: cut before the empty rows are added, or sort the ranks without their rows."""
    some = jax.tree.map(lambda x: x[:22], rows)  # the last batch is filled up
    mesh = make_mesh(MeshConfig())
    scorer = init_scorer(tiny.MODEL, tiny.params(), jax.random.key(1))
    state = TrainState(jnp.zeros((), jnp.int32), scorer, (), jnp.uint32(0))
    plain, grouped = (
        HeldOut(tiny.MODEL, ranking_loss, some, 8, mesh, by_length=by)(state, {})
        for by in (False, True)
    )
    assert plain.keys() == grouped.keys()
    for name in plain:
        np.testing.assert_allclose(grouped[name], plain[name], rtol=1e-5, atol=1e-6)


def test_widths_are_few_and_hold_their_rows(rows):
    for full in (8, 40, 64, 200, 512):
        widths = {width_for(n, full) for n in range(full + 1)}
        assert len(widths) <= 9 and max(widths) == full
        assert all(width_for(n, full) >= n for n in range(full + 1))
    assert width_for(0, 64) == 8
    found = lengths_of(sorted_by_length(rows))
    assert (np.diff(found) >= 0).all() and sorted(found) == sorted(lengths_of(rows))
    assert lengths_of(pad_rows(rows, 100))[-1] == 0
