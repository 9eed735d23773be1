"""Invariant 14: nothing is cut or dropped in silence, and never an opener or the system turn."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data import packing
from gpt_jax.data.left_out import CUT, DROPPED, SHORTENED, LeftOut
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

WORDS = ("one", "two", "three and more", "a much longer sentence than the others", "é")

many = functools.partial(settings, derandomize=True, deadline=None, max_examples=200)
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)


@functools.cache
def tokenizer():
    return Tokenizer.train([" ".join(WORDS)] * 20, 300)


@st.composite
def prompts(draw):
    """Messages that end with the user's."""
    messages = [{"role": "system", "content": draw(texts)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 3))):
        messages += [
            {"role": "user", "content": draw(texts)},
            {"role": "assistant", "content": draw(texts)},
        ]
    return [*messages, {"role": "user", "content": draw(texts)}]


@st.composite
def comparisons(draw):
    texts_K = draw(st.lists(texts, min_size=2, max_size=3))
    return {
        "prompt": draw(prompts()),
        "completions": texts_K,
        "ranks": draw(st.permutations(range(len(texts_K)))),
        "stopped": draw(st.lists(st.booleans(), min_size=len(texts_K), max_size=len(texts_K))),
    }


def counted(left_out, how):
    return sum(count for what, count in left_out.items() if f" {how} " in what)


def turns(ids):
    """Token ids split where a turn opens."""
    openers = tuple(map(tokenizer().id_of, ("<|system|>", "<|user|>", "<|assistant|>")))
    starts = [i for i, token in enumerate(ids) if token in openers]
    return [tuple(ids[a:b]) for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]


def assert_kept_whole(ids, messages):
    """A prompt is the system's turn and the last turns of the conversation, each of them whole."""
    whole, kept = (turns(x) for x in (chat.render_prompt(messages, tokenizer()), list(ids)))
    assert ids[0] == kept[0][0], "it begins with an opener"
    head = int(messages[0]["role"] == "system")
    assert kept[:head] == whole[:head]
    assert kept[head:] == whole[len(whole) - len(kept) + head :]
    assert kept[head][0] == tokenizer().id_of("<|user|>")


@many()
@given(st.lists(prompts(), min_size=1, max_size=4), st.integers(1, 60))
def test_prompts(conversations, limit):
    left_out = LeftOut()
    rows = [{"prompt": messages} for messages in conversations]
    pad = functools.partial(packing.pad_prompt_records, rows, tokenizer(), limit, left_out)
    whole = [len(chat.render_prompt(messages, tokenizer())) for messages in conversations]
    fits = [chat.shorten(messages, tokenizer(), limit) for messages in conversations]
    if not any(fits):
        with pytest.raises(UserError, match="none of the prompts fits"):
            pad()
        return
    batch = pad()
    assert batch.rows_B.tolist() == [n for n, messages in enumerate(fits) if messages]
    assert batch.tokens_BP.ids.shape[1] <= limit
    for b, n in enumerate(batch.rows_B):
        ids_P = batch.tokens_BP.ids[b]
        assert_kept_whole(ids_P[batch.tokens_BP.segment_ids[b] > 0].tolist(), conversations[n])
    assert counted(left_out, DROPPED) == len(rows) - len(batch.rows_B)
    assert sum(left_out.values()) == sum(length > limit for length in whole)


@many()
@given(st.lists(comparisons(), min_size=1, max_size=4), st.integers(1, 60))
def test_comparisons_keep_one_prompt_for_all_their_completions(rows, limit):
    """The issue's pair kept 37 tokens of its prompt on one side and none on the other."""
    left_out = LeftOut()
    batch = packing.pad_comparisons(rows, tokenizer(), limit, left_out)
    ids_BKT, segments_BKT = batch.tokens_BKT.ids, batch.tokens_BKT.segment_ids
    dropped = too_long = 0
    for n, row in enumerate(rows):
        completions = [
            chat.render_completion(text, stopped, tokenizer())
            for text, stopped in zip(row["completions"], row["stopped"], strict=True)
        ]
        room = limit - max(map(len, completions))
        too_long += len(chat.render_prompt(row["prompt"], tokenizer())) > room
        if not chat.shorten(row["prompt"], tokenizer(), room):
            dropped += 1
            assert not segments_BKT[n].any() and not batch.weights_BKT[n].any()
            assert (batch.ranks_BK[n] == -1).all()
            continue
        assert batch.ranks_BK[n, : len(completions)].tolist() == row["ranks"]
        seen = set()
        for k, completion in enumerate(completions):
            real, learned = segments_BKT[n, k] > 0, batch.weights_BKT[n, k] > 0
            assert ids_BKT[n, k][learned].tolist() == completion
            assert (real[:-1] >= real[1:]).all()
            seen.add(tuple(ids_BKT[n, k][real & ~learned].tolist()))
        (prompt,) = seen
        assert_kept_whole(prompt, row["prompt"])
    assert ids_BKT.shape[2] <= max(limit, 8)
    assert counted(left_out, DROPPED) == dropped
    assert sum(left_out.values()) == too_long
    if dropped == len(rows):
        with pytest.raises(UserError, match="none of the comparisons fits"):
            packing.without_empty(batch, "comparisons", limit)
    else:
        kept, numbers = packing.without_empty(batch, "comparisons", limit)
        assert len(kept.ranks_BK) == len(numbers) == len(rows) - dropped


@many()
@given(st.lists(st.tuples(prompts(), texts), min_size=1, max_size=4), st.integers(2, 60))
def test_demonstrations(pairs, length):
    rows = [{"messages": [*p, {"role": "assistant", "content": text}]} for p, text in pairs]
    left_out = LeftOut()
    pack = functools.partial(packing.pack_demonstrations, rows, tokenizer(), length, left_out)
    newest = [chat.render(chat.shorter(row["messages"])[-1], tokenizer()) for row in rows]
    learnable = [any(mask[1:length]) for _, mask in newest]
    if not any(learnable):
        with pytest.raises(UserError, match="none of the demonstrations fits"):
            pack()
        return
    batch = pack()
    tokens_BT, examples = batch.tokens_BT, []
    for b in range(len(batch.weights_BT)):
        for segment in range(1, tokens_BT.segment_ids[b].max() + 1):
            where = tokens_BT.segment_ids[b] == segment
            examples.append((tokens_BT.ids[b, where].tolist(), batch.weights_BT[b, where]))
    expected = []
    for row, (ids, _), learn in zip(rows, newest, learnable, strict=True):
        some = chat.shorten(row["messages"], tokenizer(), length, lambda *x: chat.render(*x)[0])
        if learn:
            whole, mask = chat.render(some, tokenizer()) if some else (ids, _mask(row))
            expected.append((whole[:length], [0, *mask[1:length]]))
    assert sorted((i, w.tolist()) for i, w in examples) == sorted(expected)
    assert counted(left_out, DROPPED) == learnable.count(False)
    cut = [learn and len(ids) > length for (ids, _), learn in zip(newest, learnable, strict=True)]
    assert counted(left_out, CUT) == sum(cut)


def _mask(row):
    return chat.render(chat.shorter(row["messages"])[-1], tokenizer())[1]


def test_what_is_left_out_is_said_in_sentences():
    left_out = LeftOut()
    left_out.add(SHORTENED, "comparisons", 3727, 256, count=12)
    left_out.add(DROPPED, "comparisons", 3727, 256, count=0)
    what = "comparisons shortened by their oldest turns to fit 256 tokens (of 3,727)"
    assert left_out.sentences() == [f"12 {what}"]
    assert left_out.entries() == [{"what": what, "count": 12}]


def test_the_length_comes_from_the_data():
    """99 of 100 rows fit, rounded up to 8, and never more than the context."""
    row = {"prompt": [{"role": "user", "content": "two"}], "stopped": [True] * 2, "ranks": [0, 1]}
    rows = [row | {"completions": ["one"] * 2}] * 199 + [row | {"completions": ["one " * 200] * 2}]
    short = len(chat.render_prompt(row["prompt"], tokenizer())) + 2
    assert packing.comparison_length(rows, tokenizer(), 64) == -(-short // 8) * 8
    assert packing.comparison_length(rows[-1:], tokenizer(), 64) == 64


def test_rows_are_drawn_by_what_they_say():
    """Break it: return `rows[:n]`."""
    rows = [{"prompt": [{"role": "user", "content": f"question {i}"}]} for i in range(200)]
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(200)]
    drawn = sample_rows(rows, 50, seed=1)
    assert drawn == [row for row in rows if row in drawn] != rows[:50]
    assert {str(row) for row in drawn} == {str(row) for row in sample_rows(shuffled, 50, seed=1)}
    assert drawn != sample_rows(rows, 50, seed=2)
    assert sample_rows(rows, 500, seed=1) == rows
