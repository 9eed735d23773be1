"""Sampling against the full forward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.data.batches import Tokens, pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.generate import generate
from gpt_jax.generate.sampler import allowed, padding_only
from gpt_jax.kernels.decode_attention import api as decode_attention_api
from gpt_jax.models import (
    ModelConfig,
    forward,
    init,
    last_logits,
    token_logprobs,
    transformer,
)
from gpt_jax.models.cache import MAX_DECODE_TOKENS, Stacks
from gpt_jax.models.contract import init_cache

PAD, STOP, C = 0, 1, 6
init_jit, apply = jax.jit(init, static_argnums=0), jax.jit(forward, static_argnums=0)
sample = jax.jit(
    generate,
    static_argnums=0,
    static_argnames=(
        *("max_new_tokens", "stop_ids", "pad_id", "temperature", "top_k", "top_p", "samples"),
    ),
)
GPT = ModelConfig(vocab_size=19, context_length=24, width=16, layers=2, heads=4)
WINDOWED = dataclasses.replace(
    GPT,
    kv_heads=2,
    positions="rope",
    norm="rms",
    mlp="swiglu",
    tied=False,
    biases=False,
    qk_norm=True,
    window=3,
    global_every=2,
)
ROWS = [[5, 9, 11, 4, 7], [8, 3], [12]]


@pytest.fixture(params=["gpt", "windowed"], scope="module")
def model(request):
    config = {"gpt": GPT, "windowed": WINDOWED}[request.param]
    # Ten times the usual scale: distributions that are far from uniform.
    return config, jax.tree.map(lambda x: 10.0 * x, init_jit(config, jax.random.key(0)))


@pytest.fixture(params=["one array for each layer", "a stack"])
def cache_of(request, monkeypatch):
    """An empty cache as it lies on CPUs, and as it lies where the layers are in a loop."""
    if request.param == "a stack":
        monkeypatch.setattr(transformer, "platform", lambda: "tpu")  # as where kernels are
    return init_cache


def run(model, rows=ROWS, length=5, seed=0, **options):
    config, params = model
    options = dict(max_new_tokens=C, stop_ids=(STOP,), pad_id=PAD) | options
    options["row_ids_B"] = options.get("row_ids_B", jnp.arange(len(rows)))
    prompts = pad_prompts(rows, length, PAD)
    return jax.device_get(sample(config, params, prompts, jax.random.key(seed), **options))


def tokens_of(rows, length) -> Tokens:
    """Left-padded rows on the device."""
    return jax.tree.map(jnp.asarray, pad_prompts(rows, length, PAD).tokens_BP)


def cut(tokens, at) -> Tokens:
    return jax.tree.map(lambda x: x[at], tokens)


def test_samples_of_a_prompt_are_those_of_as_many_rows(model, cache_of):
    """A prompt is read once for all of its samples. Break it: repeat another axis of the cache."""
    rows = [row for row in ROWS for _ in range(3)]
    apart, together = run(model, rows), run(model, ROWS, samples=3, row_ids_B=jnp.arange(9))
    np.testing.assert_allclose(together.logprobs_BC, apart.logprobs_BC, atol=1e-5)
    for ours, theirs in zip(together.tokens_BT, apart.tokens_BT, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(together.stopped_B, apart.stopped_B)
    np.testing.assert_array_equal(together.rows_B, np.arange(3).repeat(3))


def full_forward(model, rollout, temperature=1.0):
    """Log-probabilities of the completion, from one forward pass over the whole rollout."""
    config, params = model
    hidden, _ = apply(config, params, rollout.tokens_BT)
    P = rollout.prompt_BP.ids.shape[1]
    logprobs, _ = token_logprobs(
        config, params, hidden[:, P - 1 : -1], rollout.completion_BC.ids, temperature
    )
    return np.asarray(logprobs), np.asarray(hidden[:, P - 1 : -1])


def test_cached_forward_equals_the_full_one_token_by_token(model, cache_of):
    """Invariant 2. Break it: `lengths_B=index` in the attention of transformer.py."""
    config, params = model
    prompts = tokens_of(ROWS, 7)
    full, _ = apply(config, params, prompts)
    cache = cache_of(config, len(ROWS), 9)
    start, cache = apply(config, params, cut(prompts, np.s_[:, :4]), cache)
    steps = [start]
    for t in range(4, 7):
        step, cache = apply(config, params, cut(prompts, np.s_[:, t : t + 1]), cache)
        steps.append(step)
    assert cache.index_B.tolist() == [7] * 3
    real = np.asarray(prompts.segment_ids) != 0
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1)[real], full[real], atol=1e-5)


def test_a_chunk_appended_to_a_cache_equals_the_full_forward(model, cache_of):
    """Invariant 2, with more tokens than decode. Break it: `q_offset=0` in transformer.py."""
    config, params = model
    rows = [list(range(2, 17)), list(range(3, 9)), list(range(5, 18))]
    prompts = tokens_of(rows, 15)
    full, _ = apply(config, params, prompts)
    cache, parts, cuts = cache_of(config, len(rows), 16), [], (0, 3, 15)
    assert cuts[2] - cuts[1] > MAX_DECODE_TOKENS
    for start, end in zip(cuts, cuts[1:]):
        part, cache = apply(config, params, cut(prompts, np.s_[:, start:end]), cache)
        parts.append(part)
    real = np.asarray(prompts.segment_ids) != 0
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1)[real], full[real], atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 9])
def test_rows_at_different_places_equal_the_full_forward(model, chunk, cache_of):
    """Invariant 2, for requests that come and go. Break it: `places_BS = jnp.arange(S)` in
    `align`, or `index_B.max()` in `write` or `write_heads`, of cache.py."""
    config, params = model
    rows, S = [list(range(2, 17)), list(range(3, 18)), list(range(4, 19))], 15
    tokens = tokens_of(rows, S)
    full, _ = apply(config, params, tokens)
    begun = [6, 1, 0]  # how much of each row is read before they meet in one cache
    # With entries that nobody may read, as an earlier request leaves them.
    dirty = jax.tree.map(lambda x: x + 9.0 if x.dtype == jnp.float32 else x, cache_of(config, 1, S))
    caches = [dirty for _ in rows]
    for b, n in enumerate(begun):
        if n:
            _, caches[b] = apply(config, params, cut(tokens, np.s_[b : b + 1, :n]), caches[b])
    stacked = isinstance(dirty.entries, Stacks)
    cache = jax.tree.map(
        lambda *xs: jnp.concatenate(xs, axis=int(stacked and xs[0].ndim == 4)), *caches
    )
    rows_B1 = np.arange(len(rows))[:, None]
    for t in range(0, 9, chunk):
        at = (rows_B1, np.array(begun)[:, None] + np.arange(t, t + chunk))
        hidden, cache = apply(config, params, cut(tokens, at), cache)
        np.testing.assert_allclose(hidden, full[at], rtol=1e-5, atol=1e-5)
    assert cache.index_B.tolist() == [15, 10, 9]


@pytest.mark.parametrize("kernel", ["pallas_tpu", "pallas_gpu"])
def test_the_kernels_decode_as_the_full_forward_does(kernel, monkeypatch):
    """Invariant 2, in Pallas's interpreter, with the layers in a loop as on an accelerator."""
    config = dataclasses.replace(WINDOWED, layers=4)
    monkeypatch.setattr(transformer, "platform", lambda: "tpu")  # as where kernels are
    params = jax.tree.map(lambda x: 10.0 * x, init_jit(config, jax.random.key(0)))
    prompts = tokens_of(ROWS, 7)
    full, _ = apply(config, params, prompts)

    monkeypatch.setitem(decode_attention_api.PREFERRED, "cpu", kernel)
    decode = jax.jit(lambda *inputs: forward(config, params, *inputs))
    cache, steps = init_cache(config, len(ROWS), 9), []
    assert "pallas_call" in str(jax.make_jaxpr(decode)(cut(prompts, np.s_[:, :1]), cache))
    for t in range(7):
        step, cache = decode(cut(prompts, np.s_[:, t : t + 1]), cache)
        steps.append(step)
    real = np.asarray(prompts.segment_ids) != 0
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1)[real], full[real], atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_equal_those_of_the_full_forward(model, temperature):
    """Invariant 2. Break it: leave the temperature out of `_sample`."""
    rollout = run(model, temperature=temperature)
    expected, _ = full_forward(model, rollout, temperature)
    np.testing.assert_allclose(rollout.logprobs_BC, expected * rollout.mask_BC, atol=2e-5)


def test_greedy_is_the_argmax_of_the_full_forward(model):
    config, params = model
    rollout = run(model, temperature=0.0)
    _, hidden = full_forward(model, rollout)
    best = jax.vmap(lambda h: last_logits(config, params, h))(hidden).argmax(axis=-1)
    sampled = rollout.mask_BC == 1
    np.testing.assert_array_equal(rollout.completion_BC.ids[sampled], best[sampled])


def test_left_padding_changes_nothing(model):
    """Invariant 1. Break it: start the completion's positions at P."""
    short, long = run(model, length=5), run(model, length=9)
    np.testing.assert_array_equal(short.completion_BC.ids, long.completion_BC.ids)
    np.testing.assert_array_equal(short.completion_BC.positions, long.completion_BC.positions)
    np.testing.assert_allclose(short.logprobs_BC, long.logprobs_BC, atol=1e-5)


def test_batch_composition_changes_nothing(model):
    """Invariants 1 and 10. Break it: one `categorical(key, ...)` for the whole batch."""
    together = run(model)
    for b, row in enumerate(ROWS):
        alone = run(model, rows=[row], row_ids_B=jnp.array([b]))
        np.testing.assert_array_equal(alone.completion_BC.ids[0], together.completion_BC.ids[b])
        np.testing.assert_allclose(alone.logprobs_BC[0], together.logprobs_BC[b], atol=1e-5)


def test_rows_draw_different_tokens():
    uniform = (GPT, jax.tree.map(jnp.zeros_like, init_jit(GPT, jax.random.key(0))))
    rollout = run(uniform, rows=[[5]] * 8)
    assert len({tuple(row) for row in rollout.completion_BC.ids.tolist()}) == 8
    assert len({tuple(row) for row in rollout.completion_BC.ids.T.tolist()}) == C


def test_stopping():
    """The stop token is sampled, masked in, and followed by padding only."""
    uniform = (GPT, jax.tree.map(jnp.zeros_like, init_jit(GPT, jax.random.key(0))))
    rollout = run(uniform, rows=[[5, 6]] * 64)
    completion = rollout.completion_BC.ids
    assert 0 < rollout.stopped_B.sum() < 64
    for tokens, mask, logprobs, stopped in zip(
        completion, rollout.mask_BC, rollout.logprobs_BC, rollout.stopped_B, strict=True
    ):
        length = int(mask.sum())
        np.testing.assert_array_equal(mask, np.arange(C) < length)
        assert stopped == (STOP in tokens[:length])
        assert STOP not in tokens[: length - 1]
        assert length == C or stopped
        np.testing.assert_array_equal(tokens[length:], PAD)
        np.testing.assert_array_equal(logprobs[length:], 0.0)
        np.testing.assert_allclose(logprobs[:length], -np.log(19), atol=1e-5)
    np.testing.assert_array_equal(rollout.completion_BC.segment_ids, rollout.mask_BC)
    np.testing.assert_array_equal(
        rollout.completion_BC.positions, (2 + np.arange(C)) * rollout.mask_BC
    )


def test_the_loop_ends_when_every_row_has_stopped():
    """Break it: remove `& ~s.stopped_B.all()`; 10**5 steps then take minutes."""
    config = dataclasses.replace(GPT, positions="sinusoidal")
    params = init_jit(config, jax.random.key(0))
    # An unembedding that always says STOP.
    params = jax.tree.map(lambda x: 0.0 * x, params)
    params["final_norm"]["bias"] = jnp.ones(16)
    params["embed"]["tokens"] = jnp.zeros((19, 16)).at[STOP].set(10.0)
    rollout = run((config, params), max_new_tokens=10**5)
    assert rollout.stopped_B.all()
    np.testing.assert_array_equal(rollout.mask_BC.sum(axis=1), 1.0)


def test_top_k_of_one_is_greedy_with_unfiltered_logprobs(model):
    greedy, filtered = run(model, temperature=0.0), run(model, top_k=1)
    np.testing.assert_array_equal(greedy.completion_BC.ids, filtered.completion_BC.ids)
    np.testing.assert_allclose(greedy.logprobs_BC, filtered.logprobs_BC, atol=1e-6)


def test_outgrowing_the_position_table_ends_in_a_sentence():
    model = (GPT, init_jit(GPT, jax.random.key(0)))
    with pytest.raises(UserError, match="exceed the model's context_length 24"):
        run(model, max_new_tokens=20)


def test_any_stop_token_ends_a_row_and_padding_may_be_one_of_them(model):
    """Break it: tell what is padding, or where a row ended, by an id."""
    free = run(model, stop_ids=(), pad_id=PAD, seed=7)
    said = free.completion_BC.ids
    assert not free.stopped_B.any() and said.shape == (3, C)
    stops = (int(said[0, 1]), int(said[1, 3]))
    for pad_id in (PAD, stops[0]):
        rollout = run(model, stop_ids=stops, pad_id=pad_id, seed=7)
        for row in range(3):
            ends = [t for t in range(C) if said[row, t] in stops]
            length = ends[0] + 1 if ends else C
            assert rollout.stopped_B[row] == bool(ends)
            assert rollout.mask_BC[row].tolist() == [1.0] * length + [0.0] * (C - length)
            assert rollout.completion_BC.ids[row, :length].tolist() == said[row, :length].tolist()
            assert set(rollout.completion_BC.ids[row, length:].tolist()) <= {pad_id}


def test_padding_that_is_a_stop_token_may_be_said():
    """GPT-2 has one special token for both. Break it: forbid `pad_id` always."""
    logits_BV = jnp.zeros((1, 5))
    for stops, said in (((3,), [0, 0, 1, 0, 0]), ((2, 3), [0, 0, 0, 0, 0])):
        found_BV = allowed(logits_BV, padding_only(2, stops), 5)
        assert jnp.isneginf(found_BV)[0].astype(int).tolist() == said
