"""Beam search against an exhaustive one, which looks at every completion there is."""

import itertools

import jax
import numpy as np
import pytest

from gpt_jax.data.batches import Tokens, pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.generate.beams import beam_search, best_of
from gpt_jax.generate.sampler import generate
from gpt_jax.generate.text import TextModel
from gpt_jax.models import ModelConfig, forward, init, last_logits
from gpt_jax.text.tokenizer import Tokenizer

PAD, STOP, V = 0, 1, 6
C_MOST = 6
MODEL = ModelConfig(vocab_size=V, context_length=16, width=16, layers=2, heads=2)
PARAMS = jax.tree.map(lambda x: 12.0 * x, init(MODEL, jax.random.key(1)))
ROWS = [[2, 5, 3], [4], [3, 3, 2, 5, 4]]
search = jax.jit(
    beam_search,
    static_argnums=0,
    static_argnames=("beams", "max_new_tokens", "stop_ids", "pad_id", "length_penalty"),
)


@jax.jit
def logits_of(tokens):
    hidden, _ = forward(MODEL, PARAMS, tokens)
    return jax.vmap(lambda h: last_logits(MODEL, PARAMS, h))(hidden)


def run(beams, new, rows=ROWS, width=5, alpha=1.0, stop_ids=(STOP,)):
    found = search(
        MODEL,
        PARAMS,
        pad_prompts(rows, width, PAD),
        beams=beams,
        max_new_tokens=new,
        stop_ids=stop_ids,
        pad_id=PAD,
        length_penalty=alpha,
    )
    return jax.device_get(found)


def logprobs_after(prompt, ends):
    """float64 log-probabilities of whole completions, by the full forward pass."""
    length, count = C_MOST, len(ends)
    ends = [*ends, *[ends[0]] * (-count % 32)]  # few shapes are compiled
    ids = np.array([[*prompt, *end, *[PAD] * (length - len(end))] for end in ends])
    segments = np.array([[1] * (len(prompt) + len(e)) + [0] * (length - len(e)) for e in ends])
    positions = np.arange(ids.shape[1]) * segments
    logits = np.asarray(logits_of(Tokens(ids, positions, segments)), np.float64)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    at = len(prompt) - 1
    sums = [sum(logits[b, at + i, t] for i, t in enumerate(e)) for b, e in enumerate(ends)]
    return sums[:count]


def all_completions(new, stops=(STOP,)):
    """Every sequence that a stop token or the length limit ends."""
    going = [token for token in range(V) if token not in stops]
    for length in range(1, new + 1):
        for head in itertools.product(going, repeat=length - 1):
            last = range(V) if length == new else stops
            yield from ((*head, token) for token in last)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_enough_beams_find_the_best_of_all_completions(alpha):
    """Break it: divide by t instead of t + 1, or let the cache's rows stay where they are."""
    ends = list(all_completions(3))
    found = run(150, 3, alpha=alpha)
    for row, prompt in enumerate(ROWS):
        sums = np.array(logprobs_after(prompt, ends))
        scores = sums / np.array([len(end) for end in ends]) ** alpha
        order = np.argsort(-scores)[:20]
        np.testing.assert_allclose(found.scores_BK[row, :20], scores[order], atol=1e-3)
        best = found.ids_BKC[row, 0, : found.lengths_BK[row, 0]]
        assert tuple(best) == ends[order[0]]


def test_a_search_that_finds_all_of_them_says_that_there_are_no_more():
    found = run(40, 1)
    assert np.isfinite(found.scores_BK).sum(axis=1).tolist() == [V, V, V]
    np.testing.assert_allclose(np.exp(found.scores_BK).sum(axis=1), 1.0, rtol=1e-5)


def test_few_beams_are_a_naive_search():
    """Step by step in plain Python, with float64 scores."""
    K, C = 3, 6
    found = run(K, C)
    for row, prompt in enumerate(ROWS):
        going, done = [()], []
        for t in range(C):
            grown = [(*head, token) for head in going for token in range(V)]
            order = np.argsort(-np.array(logprobs_after(prompt, grown)), kind="stable")
            ranked = [grown[i] for i in order]
            ended = [end[-1] == STOP or t + 1 == C for end in ranked]
            done += [end for end, over in zip(ranked[:K], ended) if over]
            going = [end for end, over in zip(ranked, ended) if not over][:K]
            if not going:
                break
        scores = np.array(logprobs_after(prompt, done)) / [len(end) for end in done]
        np.testing.assert_allclose(found.scores_BK[row], -np.sort(-scores)[:K], atol=1e-3)


def test_one_beam_is_greedy():
    found = run(1, 8, alpha=0.0)
    greedy = generate(
        MODEL, PARAMS, pad_prompts(ROWS, 5, PAD), jax.random.key(0),
        max_new_tokens=8, stop_ids=(STOP,), pad_id=PAD, temperature=0.0,
    )  # fmt: skip
    np.testing.assert_array_equal(found.ids_BKC[:, 0], greedy.completion_BC.ids)
    np.testing.assert_allclose(found.logprobs_BKC[:, 0], greedy.logprobs_BC, atol=1e-4)
    np.testing.assert_array_equal(found.stopped_BK[:, 0], greedy.stopped_B)


@pytest.mark.slow
def test_neither_padding_nor_other_rows_change_anything():
    """Invariant 1."""
    together = run(4, 6, width=9)
    for row, prompt in enumerate(ROWS):
        alone = run(4, 6, rows=[prompt], width=len(prompt))
        np.testing.assert_array_equal(alone.ids_BKC[0], together.ids_BKC[row])
        np.testing.assert_allclose(alone.scores_BK[0], together.scores_BK[row], atol=1e-5)


def test_scores_are_those_of_the_tokens():
    found = run(4, 6, stop_ids=(STOP, 2))
    sums = found.logprobs_BKC.sum(axis=2)
    np.testing.assert_allclose(found.scores_BK, sums / found.lengths_BK, atol=1e-5)
    ends = np.take_along_axis(found.ids_BKC, found.lengths_BK[:, :, None] - 1, axis=2)[..., 0]
    np.testing.assert_array_equal(np.isin(ends, (STOP, 2)), found.stopped_BK)


def test_texts():
    tokenizer = Tokenizer.train(["the cat sat on the mat"] * 3, 300)
    config = ModelConfig(vocab_size=320, context_length=32, width=16, layers=1, heads=2)
    model = TextModel(config, init(config, jax.random.key(0)), tokenizer)
    found = best_of(model, ["the cat", "a"], 3, max_new_tokens=4)
    assert [len(some) for some in found] == [3, 3]
    for some in found:
        means = [sum(one.logprobs) / len(one.tokens) for one in some]
        assert means == sorted(means, reverse=True)
        assert all(token < tokenizer.vocab_size for one in some for token in one.tokens)


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"new": 0}, {"alpha": -1.0}, {"new": 40}])
def test_what_cannot_be_searched_is_said(wrong):
    with pytest.raises(UserError):
        run(**{"beams": 2, "new": 2} | wrong)
