"""Speculation changes no distribution, whoever guesses."""

import functools
import itertools

import jax
import numpy as np
import pytest

from gpt_jax.data.batches import pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.generate import generate
from gpt_jax.generate.speculative import Draft, speculate
from gpt_jax.models import ModelConfig, forward, init
from gpt_jax.models.heads import last_logits

PAD, STOP, V = 0, 1, 6
GPT = ModelConfig(vocab_size=V, context_length=48, width=16, layers=2, heads=4)
SMALL = ModelConfig(vocab_size=V, context_length=48, width=8, layers=1, heads=2)
PARAMS, SMALL_PARAMS = (
    jax.tree.map(lambda x: 8.0 * x, init(config, jax.random.key(seed)))
    for seed, config in enumerate((GPT, SMALL))
)
OPTIONS = dict(stop_ids=(STOP,), pad_id=PAD, vocab_size=V)


@functools.partial(jax.jit, static_argnames=("new", "temperature", "drafted", "ahead"))
def run(prompts, key, *, new, temperature, drafted, ahead=3):
    draft = Draft(SMALL, SMALL_PARAMS) if drafted else None
    options = OPTIONS | dict(max_new_tokens=new, temperature=temperature)
    return speculate(GPT, PARAMS, prompts, key, draft=draft, ahead=ahead, **options)


@pytest.mark.parametrize("drafted", [False, True], ids=["the text", "a model"])
def test_at_temperature_0_it_is_the_plain_sampler(drafted):
    """Break it: leave the index of a row behind guesses that were not kept."""
    prompts = pad_prompts([[2, 3, 2, 3, 2], [4, 5], [3]], 6, PAD)
    ours, passes = run(prompts, jax.random.key(0), new=20, temperature=0.0, drafted=drafted)
    plain = jax.jit(functools.partial(
        generate, GPT, max_new_tokens=20, temperature=0.0, **OPTIONS))  # fmt: skip
    theirs = plain(PARAMS, prompts, jax.random.key(0))
    for a, b in zip(ours.completion_BC, theirs.completion_BC, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(ours.stopped_B, theirs.stopped_B)
    assert 0 < passes.kept <= passes.guessed == 3 * passes.rounds


@pytest.mark.parametrize("drafted", [False, True], ids=["the text", "a model"])
def test_draws_have_the_models_distribution(drafted):
    """A chi-square test on the first three tokens of 20,000 rows, against exact probabilities.

    Break it: draw from p, not from max(0, p - q), where a guess was not kept."""
    rows, new, prompt = 20_000, 3, [2, 3, 2]
    prompts = pad_prompts([prompt] * rows, 3, PAD)
    ours, _ = run(prompts, jax.random.key(7), new=new, temperature=1.3, drafted=drafted)
    counts = {}
    for row, real in zip(
        np.asarray(ours.completion_BC.ids), np.asarray(ours.completion_BC.segment_ids), strict=True
    ):
        said = tuple(row[real > 0].tolist())
        counts[said] = counts.get(said, 0) + 1
    exact = exact_probabilities(prompt, new, 1.3)
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    assert set(counts) <= set(exact)
    often = [said for said, p in exact.items() if p * rows >= 5]
    rest = sum(p for said, p in exact.items() if said not in often) * rows
    others = rows - sum(counts.get(said, 0) for said in often)
    chi = sum((counts.get(s, 0) - exact[s] * rows) ** 2 / (exact[s] * rows) for s in often)
    chi += (others - rest) ** 2 / max(rest, 1)
    degrees = len(often)
    # Its mean is the degrees of freedom, its variance twice them.
    assert chi < degrees + 4.5 * np.sqrt(2 * degrees)


def exact_probabilities(prompt, new, temperature):
    """Of every completion, from full forward passes."""
    texts = [list(t) for n in range(new) for t in itertools.product(range(1, V), repeat=n)]
    texts = [t for t in texts if STOP not in t]
    tokens = pad_prompts([prompt + t for t in texts], len(prompt) + new, PAD).tokens_BP
    hidden = jax.jit(lambda t: forward(GPT, PARAMS, t)[0][:, -1])(tokens)
    logits = np.array(last_logits(GPT, PARAMS, hidden), np.float64) / temperature
    logits[:, PAD] = -np.inf
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    after = {tuple(t): row for t, row in zip(texts, p, strict=True)}
    found = {}

    def go_on(said, share):
        for token in range(1, V):
            now, chance = (*said, token), share * after[said][token]
            if token == STOP or len(now) == new:
                found[now] = chance
            else:
                go_on(now, chance)

    go_on((), 1.0)
    return found


def test_a_draft_that_is_the_model_is_always_kept():
    prompts = pad_prompts([[2, 3], [4, 5, 2]], 3, PAD)
    options = OPTIONS | dict(max_new_tokens=12, temperature=1.0)
    same = jax.jit(functools.partial(
        speculate, GPT, PARAMS, draft=Draft(GPT, PARAMS), ahead=3, **options))  # fmt: skip
    rollout, passes = same(prompts=prompts, key=jax.random.key(1))
    lengths = rollout.completion_BC.segment_ids.sum(axis=1)
    # Each round gives four tokens, the last one of a row what is left.
    assert int(passes.rounds) == sum(-(-(int(n) - 1) // 4) for n in lengths)


def test_a_guess_too_long_is_refused():
    with pytest.raises(UserError, match="1 to 7"):
        run(pad_prompts([[2]], 1, PAD), jax.random.key(0), new=2, temperature=1.0,
            drafted=False, ahead=8)  # fmt: skip
