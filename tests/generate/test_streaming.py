"""Text as it comes: what is told is never taken back, and in the end it is all there."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.errors import UserError
from gpt_jax.generate.engine import Engine
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.slots import decode, prefill
from gpt_jax.generate.streaming import HELD, pieces, settled, stream, takes
from gpt_jax.generate.text import TextModel
from gpt_jax.models import init
from gpt_jax.models.config import ModelConfig
from gpt_jax.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["hello there, how are you? \u4f60\u597d \U0001f600"] * 4, 290)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40))
@settings(deadline=None)
def test_pieces_are_the_text(ids):
    """Of random tokens, most of which are halves of characters. Break it: decode each alone."""
    found = pieces(ids, TOKENIZER)
    assert len(found) == len(ids)
    assert "".join(found) == TOKENIZER.decode(ids)


def test_a_character_comes_with_the_last_of_its_tokens():
    ids = [TOKENIZER.encode(letter)[0] for letter in "ab"]
    snowman = TOKENIZER.encode("\N{SNOWMAN}")
    assert len(snowman) >= 3
    assert pieces([ids[0], *snowman, ids[1]], TOKENIZER)[-2:] == ["\N{SNOWMAN}", "b"]
    assert pieces(snowman, TOKENIZER)[:-1] == [""] * (len(snowman) - 1)


@pytest.mark.parametrize(
    "text, stops, kept",
    [
        ("hello", (), "hello"),
        (f"hello{HELD}", (), "hello"),
        ("hello EN", ("END",), "hello "),
        ("hello E", ("END", "o E."), "hell"),
        ("hello END", ("xEND",), "hello END"),
    ],
)
def test_what_may_still_change_is_held_back(text, stops, kept):
    assert settled(text, stops) == kept


@pytest.fixture(scope="module")
def engine():
    config = ModelConfig(vocab_size=296, context_length=96, width=16, layers=1, heads=2)
    params = jax.tree.map(lambda x: 3.0 * x, init(config, jax.random.key(0)))
    return Engine(TextModel(config, params, TOKENIZER), slots=1, rows=1, steps=3)


def everything(parts):
    """The parts of a generator, and what it returned."""
    found = []
    while True:
        try:
            found.append(next(parts))
        except StopIteration as end:
            return found, end.value


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stop", [(), ("e", "ab")])
def test_a_stream_is_the_completion_in_parts(engine, seed, stop):
    model, sampling = engine.model, Sampling(max_new_tokens=24, seed=seed, stop=stop)
    (whole,) = model.complete(["hello"], sampling)
    parts, completion = everything(stream(engine, model.asked("hello", 0, sampling), sampling))
    assert "".join(parts) == whole.text == completion.text
    assert (completion.tokens, completion.finish_reason) == (whole.tokens, whole.finish_reason)
    np.testing.assert_allclose(completion.logprobs, whole.logprobs, atol=1e-5)
    assert not engine.busy


def test_a_stream_that_is_closed_leaves_its_slot(engine):
    sampling = Sampling(max_new_tokens=60, seed=1)
    parts = stream(engine, engine.model.asked("hello", 0, sampling), sampling)
    next(parts)
    assert engine.busy
    parts.close()
    assert not engine.busy


def test_what_fits_no_slot_is_said(engine):
    small = Engine(engine.model, slots=1, places=32)
    sampling = Sampling(max_new_tokens=20)
    turns = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hello"}]
    # In a smaller place than the context the oldest turns are left out, as they are there.
    (found,) = small.complete([turns * 4 + turns[:1]], sampling)
    assert found.left_out > 0 and found.prompt_tokens <= 12
    with pytest.raises(UserError, match="reads 12 at a time"):
        small.complete(["x" * 40], sampling)


def test_which_models_an_engine_takes(engine):
    assert takes(engine.model.config)


def test_a_warm_engine_compiles_nothing(engine):
    """Of parameters that are bound to a device, as loaded ones are: the first who asks waits no
    longer. Break it: leave the slots where `empty` made them."""
    params = jax.device_put(engine.model.params, jax.devices()[0])
    warm = Engine(engine.model._replace(params=params), slots=2, rows=2)
    warm.complete(["warm up"], Sampling(max_new_tokens=2))
    compiled = prefill._cache_size(), decode._cache_size()
    warm.complete(["hello", "you"], Sampling(max_new_tokens=12, seed=1, top_k=3, temperature=0.5))
    assert (prefill._cache_size(), decode._cache_size()) == compiled
