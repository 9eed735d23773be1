"""The engine: the same completions as the plain sampler's, whoever comes and goes meanwhile."""

import dataclasses

import jax
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.generate.engine import Engine
from gpt_jax.generate.requests import Request
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.slots import decode, prefill
from gpt_jax.generate.text import TextModel
from gpt_jax.models import axes_of, init
from gpt_jax.models.config import ModelConfig
from gpt_jax.parallel import rules
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.text.tokenizer import Tokenizer
from tests.models.lstm import LSTM

WORDS = "hello there, how are you? you are there".split()


@pytest.fixture(scope="module")
def model() -> TextModel:
    tokenizer = Tokenizer.train(["hello there, how are you?"] * 4, vocab_size=280)
    config = ModelConfig(
        vocab_size=288, context_length=128, width=16, layers=2, heads=2, positions="rope"
    )
    params = jax.tree.map(lambda x: 5.0 * x, init(config, jax.random.key(0)))
    return TextModel(config, params, tokenizer, "document")


def texts(count, seed=0, most=24):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, most))) for _ in range(count)]


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert (a.tokens, a.text, a.finish_reason) == (b.tokens, b.text, b.finish_reason)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.0, max_new_tokens=12),
        Sampling(temperature=0.8, max_new_tokens=12, seed=5, n=3),
        Sampling(top_k=20, top_p=0.9, min_p=0.01, max_new_tokens=12),
        Sampling(stop=("e",), max_new_tokens=12),
    ],
    ids=["greedy", "sampled", "filtered", "stop string"],
)
@pytest.mark.parametrize("pages", [None, 6])
def test_it_completes_as_the_plain_sampler_does(model, sampling, pages):
    """Break it: write where the slot before ended, or in a page that another has by now."""
    prompts = texts(12)
    engine = Engine(model, slots=5, pages=pages, chunk=16, rows=2, steps=4)
    same(engine.complete(prompts, sampling), model.complete(prompts, sampling))


@pytest.mark.parametrize("pages", [pytest.param(None, marks=pytest.mark.slow), 6])
def test_on_a_mesh_it_completes_as_on_one_device(model, pages):
    """Break it: split the pages over the batch's axes."""
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    split = jax.device_put(model.params, rules.shardings(model.params, mesh, axes_of(model.config)))
    engine = Engine(
        model._replace(params=split, mesh=mesh), slots=4, pages=pages, chunk=16, rows=4, steps=4
    )
    prompts, sampling = texts(6), Sampling(max_new_tokens=8, seed=3)
    same(engine.complete(prompts, sampling), model.complete(prompts, sampling))


@pytest.mark.parametrize("pages", [None, 30])
def test_requests_that_come_at_random_are_answered_as_if_alone(model, pages, monkeypatch):
    """200 of them, of all lengths and settings, greedy and sampled, with cancellations between."""
    monkeypatch.setattr("gpt_jax.generate.engine.PAGE", 8)
    rng = np.random.default_rng(1)
    engine = Engine(model, slots=8, pages=pages, chunk=16, rows=3, steps=5)
    settings = [
        Sampling(temperature=float(t), max_new_tokens=int(n), seed=int(n))
        for t in (0.0, 1.0)
        for n in (1, 7, 24)
    ]
    compiled = prefill._cache_size() + decode._cache_size()
    common = " ".join(WORDS + WORDS)
    kept, prompts = [], [f"{common} {t}" if i % 3 else t for i, t in enumerate(texts(200, 2, 12))]
    for prompt in prompts:
        sampling = settings[rng.integers(len(settings))]
        ids = model.asked(prompt, 0, sampling).ids
        request = engine.submit(Request(ids, sampling, name=int(rng.integers(2**32))))
        kept.append(request)
        if rng.random() < 0.1:
            engine.cancel(kept[-1 - rng.integers(min(6, len(kept)))])
        for _ in range(rng.integers(3)):
            engine.advance()
    while engine.busy:
        engine.advance()
    assert prefill._cache_size() + decode._cache_size() <= compiled + 2
    assert sum(r.finish_reason == "cancelled" for r in kept) > 5
    assert engine.counters["copied"] > 0
    alone = Engine(model, slots=1, chunk=16, rows=3, steps=5)
    for request in kept[:40]:
        if request.finish_reason == "cancelled":
            continue
        again = alone.submit(Request(request.ids, request.sampling, request.name))
        while alone.busy:
            alone.advance()
        assert again.tokens == request.tokens


@pytest.mark.parametrize("pages", [None, 32])
def test_what_prompts_share_is_read_once(model, pages, monkeypatch):
    """Break it: let a copied row keep what lies behind the shared tokens."""
    monkeypatch.setattr("gpt_jax.generate.engine.PAGE", 8)
    long = " ".join(WORDS * 5)
    prompts = [f"{long} {word}" for word in ("hello", "you", "how", "are")]
    sampling = Sampling(temperature=0.0, max_new_tokens=6)
    engine = Engine(model, slots=3, pages=pages, chunk=16, rows=2)
    same(engine.complete(prompts, sampling), model.complete(prompts, sampling))
    total = sum(len(model.asked(p, 0, sampling).ids) for p in prompts)
    assert engine.counters["read"] < 0.5 * total
    assert engine.counters["read"] + engine.counters["copied"] == total


def test_penalties_and_biases_by_hand(model):
    """One row's logits, penalised in NumPy."""
    ids = model.asked("hello there", 0, Sampling(max_new_tokens=4)).ids

    def table(sampling, tokens):
        """Log-probabilities of the next token without settings: of a request's own first draw."""
        engine = Engine(model, slots=1, top=279)
        plain = dataclasses.replace(sampling, logprobs=279, max_new_tokens=1)
        request = engine.submit(Request([*ids, *tokens], plain))
        while engine.busy:
            engine.advance()
        return dict(request.tops[0])

    sampling = Sampling(
        temperature=0.0, max_new_tokens=4, presence_penalty=1.5, frequency_penalty=0.5, logprobs=5
    )
    engine = Engine(model, slots=2, top=5)
    request = engine.submit(Request(ids, sampling))
    while engine.busy:
        engine.advance()
    for place in range(1, len(request.tokens)):
        before = request.tokens[:place]
        logits = table(Sampling(temperature=0.0), before)
        for token in set(before):
            logits[token] -= 1.5 + 0.5 * before.count(token)
        total = np.log(sum(np.exp(list(logits.values()))))
        best = max(logits, key=logits.get)
        assert request.tokens[place] == best
        assert request.logprobs[place] == pytest.approx(logits[best] - total, abs=1e-4)
    biased = Sampling(temperature=0.0, max_new_tokens=3, logit_bias=((270, 100.0),))
    assert engine.complete(["hello"], biased)[0].tokens == [270, 270, 270]
    with pytest.raises(UserError, match="Engine"):
        model.complete(["hello"], biased)


class Alternating:
    """Only two tokens, in turn."""

    def __init__(self, words):
        self.words, self.turn = words, 0

    def allowed(self):
        mask = np.zeros(self.words, np.uint32)
        token = (260, 270)[self.turn]
        mask[token // 32] = 1 << token % 32
        return mask

    def take(self, token):
        assert token == (260, 270)[self.turn]
        self.turn = 1 - self.turn


def test_a_constraint_binds_its_request_alone(model):
    engine = Engine(model, slots=2)
    sampling = Sampling(max_new_tokens=6, temperature=0.0)
    ids = model.asked("hello", 0, sampling).ids
    bound = engine.submit(Request(ids, sampling, constraint=Alternating(9)))
    free = engine.submit(Request(ids, sampling))
    while engine.busy:
        engine.advance()
    assert bound.tokens == [260, 270] * 3
    assert free.tokens == model.complete(["hello"], sampling)[0].tokens


def test_what_does_not_fit_is_refused(model):
    engine = Engine(model, slots=1, places=32)
    with pytest.raises(UserError, match="32 of a slot"):
        engine.submit(Request([5] * 30, Sampling(max_new_tokens=3)))
    with pytest.raises(UserError, match="no token"):
        engine.submit(Request([], Sampling()))
    with pytest.raises(UserError, match="logprobs is 3"):
        engine.submit(Request([5], Sampling(max_new_tokens=3, logprobs=3)))
    small = Engine(model, slots=1, pages=1)
    with pytest.raises(UserError, match="need 2 pages of 64, but there are 1"):
        small.submit(Request([5] * 60, Sampling(max_new_tokens=5)))
    with pytest.raises(UserError, match="pages is 0"):
        Engine(model, pages=0)
    with pytest.raises(UserError, match="places is 1000"):
        Engine(model, places=1000)
    lstm = LSTM(vocab_size=288, context_length=64, width=16)
    with pytest.raises(UserError, match="key/value"):
        Engine(model._replace(config=lstm, params=None))
