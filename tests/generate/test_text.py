"""Text in, text out: alike alone and among others, in few programs, cut where it ends."""

import dataclasses

import jax
import numpy as np
import pytest

from gpt_jax.data.batches import pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.generate import text as text_module
from gpt_jax.generate.sampler import Rollout
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.models import forward, init
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.heads import axes_of
from gpt_jax.parallel import rules
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.text import chat
from gpt_jax.text.chat import shorter
from gpt_jax.text.tokenizer import Tokenizer
from tests.text import vocabularies

SHORT = Sampling(max_new_tokens=8, seed=3)


@pytest.fixture(scope="module")
def model() -> TextModel:
    tokenizer = Tokenizer.train(["hello there, how are you?"] * 4, vocab_size=280)
    # More ids than the tokenizer has, as some published models do.
    config = ModelConfig(vocab_size=288, context_length=64, width=16, layers=1, heads=2)
    params = jax.tree.map(lambda x: 5.0 * x, init(config, jax.random.key(0)))
    return TextModel(config, params, tokenizer)


def user(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


PROMPTS = ["hello", "how are you, there?", user("hello", "you?", "there, are you"), "you", "hello"]


def close(ours, theirs):
    assert ours._replace(logprobs=[], alternatives=[]) == theirs._replace(
        logprobs=[], alternatives=[]
    )
    np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


def test_a_completion_is_the_same_alone_and_among_others(model, monkeypatch):
    """Invariant 1. Break it: name a draw by its row in the batch."""
    together = model.complete(PROMPTS, SHORT)
    for prompt, completion in zip(PROMPTS[:4], together, strict=False):
        close(model.complete([prompt], SHORT)[0], completion)
    monkeypatch.setattr(text_module, "BATCH", 2)
    for ours, theirs in zip(model.complete(PROMPTS, SHORT), together, strict=True):
        close(ours, theirs)
    reversed_ = model.complete(PROMPTS[1:4][::-1], SHORT)[::-1]
    for ours, theirs in zip(reversed_, together[1:4], strict=True):
        close(ours, theirs)


def test_samples_seeds_and_equal_prompts_draw_apart(model):
    """Invariant 10. Break it: leave `place` out of the name of a draw."""
    drawn = model.complete(["hello", "you", "hello"], Sampling(max_new_tokens=8, n=3))
    assert [c.prompt_tokens for c in drawn[::3]] == [c.prompt_tokens for c in drawn[2::3]]
    texts = [tuple(c.tokens) for c in drawn]
    assert len(set(texts)) == 9
    first = model.complete(["hello"], Sampling(max_new_tokens=8, n=1))[0]
    assert tuple(first.tokens) == texts[0]
    other = model.complete(["hello"], Sampling(max_new_tokens=8, seed=1))[0]
    assert tuple(other.tokens) != texts[0]


def test_any_number_of_prompts_takes_few_programs(model):
    """At most one for each width and one for each number of rows, powers of two both."""
    sampling = Sampling(max_new_tokens=3)
    before = text_module._generate._cache_size()
    for n in (1, 2, 3, 5, 6, 7, 8):
        prompts = ["hello " * (1 + i % 14) for i in range(n)]
        assert len(model.complete(prompts, sampling)) == n
    widths, rows = 2, 4
    assert text_module._generate._cache_size() - before <= widths * rows
    assert model.complete([], sampling) == []


def test_many_prompts_take_one_program_of_a_width(model, monkeypatch):
    """What is left over is no batch of its own shape. Break it: cut the order into slices."""
    monkeypatch.setattr(text_module, "BATCH", 4)
    prompts, sampling = ["hello", "you", "hello there", "how"] * 3, Sampling(max_new_tokens=5)
    whole = model.complete(prompts, sampling)
    before = text_module._generate._cache_size()
    for n in (5, 6, 7, 9, 11):
        for ours, theirs in zip(model.complete(prompts[:n], sampling), whole[:n], strict=True):
            close(ours, theirs)
    assert text_module._generate._cache_size() == before


def test_logprobs_and_alternatives_are_those_of_the_full_forward(model):
    """Invariant 2, in text."""
    sampling = Sampling(max_new_tokens=8, temperature=0.7, logprobs=4, seed=5)
    (completion,) = model.complete(["hello there"], sampling)
    ids = chat.render_prompt(user("hello there"), model.tokenizer) + completion.tokens
    tokens = pad_prompts([ids], len(ids), 0).tokens_BP
    hidden, _ = forward(model.config, model.params, tokens)
    n = len(completion.tokens)
    hidden = hidden[:, -n - 1 : -1]
    table = np.asarray(hidden[0] @ model.params["embed"]["tokens"].T, np.float64) / 0.7
    table[:, 0], table[:, model.tokenizer.vocab_size :] = -np.inf, -np.inf
    table -= np.log(np.exp(table).sum(axis=1, keepdims=True))
    picked = table[np.arange(n), completion.tokens]
    np.testing.assert_allclose(completion.logprobs, picked, atol=1e-4)
    for row, alternatives in zip(table, completion.alternatives, strict=True):
        best = np.argsort(-row, kind="stable")[:4]
        assert [i for i, _ in alternatives] == best.tolist()
        np.testing.assert_allclose([p for _, p in alternatives], row[best], atol=1e-4)


def favouring(model, ids):
    """The model with its distribution on a few tokens: an embedding that only these have."""
    zero = jax.tree.map(lambda x: 0.0 * x, model.params)
    zero["final_norm"]["bias"] = zero["final_norm"]["bias"] + 1.0
    table = zero["embed"]["tokens"]
    return model._replace(
        params=zero | {"embed": zero["embed"] | {"tokens": table.at[np.array(ids)].set(1.0)}}
    )


def test_padding_and_ids_without_a_token_are_never_drawn(model):
    """Break it: `vocab_size=None` in `_draw`."""
    a = model.tokenizer.encode("a")[0]
    wanted = favouring(model, [0, a, 285])
    for sampling in (
        Sampling(max_new_tokens=8, n=4),
        Sampling(max_new_tokens=8, temperature=0.0),
        Sampling(max_new_tokens=8, top_p=0.0),
        Sampling(max_new_tokens=8, top_k=1),
    ):
        for completion in wanted.complete(["hello"], sampling):
            assert completion.tokens == [a] * 8 and completion.finish_reason == "length"


def spoken(model, monkeypatch, ids, stopped):
    """Makes the model say these tokens."""
    said = list(ids) + [model.tokenizer.eos_id] * stopped

    def fake(config, params, prompts, key, *, max_new_tokens, **_):
        b = len(prompts.rows_B)
        shape = (b, max_new_tokens)
        row = np.zeros(max_new_tokens, np.int32)
        row[: len(said)] = said
        real = np.broadcast_to(np.arange(max_new_tokens) < len(said), shape).astype(np.int32)
        completion = pad_prompts([[0]], 1, 0).tokens_BP._replace(
            ids=np.broadcast_to(row, shape), segment_ids=real, positions=real
        )
        return Rollout(
            prompts.tokens_BP,
            completion,
            -np.broadcast_to(np.arange(max_new_tokens, dtype=np.float32), shape),
            np.full(b, stopped),
            prompts.rows_B,
        )

    monkeypatch.setattr(text_module, "_generate", fake)


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize(
    "stop, text, reason",
    [
        ((), " hello, you there", None),
        (("zzz",), " hello, you there", None),
        (("lo, y",), " hel", "stop_string"),  # spans tokens, and begins within one
        (("there", ", you"), " hello", "stop_string"),  # the first to occur, not the first named
        ((" hello",), "", "stop_string"),
    ],
)
def test_stop_strings_cut_at_the_first(model, monkeypatch, stop, text, reason, stopped):
    ids = model.tokenizer.encode(" hello, you there")
    spoken(model, monkeypatch, ids, stopped)
    sampling = Sampling(max_new_tokens=24, stop=stop)
    (completion,) = model.complete(["hi"], sampling)
    assert completion.text == text.removeprefix(" ")
    assert completion.finish_reason == (reason or ("stop" if stopped else "length"))
    assert completion.stopped == (stopped or bool(reason))
    decoded = model.tokenizer.decode(completion.tokens)
    assert decoded.startswith(text)
    if reason and text:
        assert not model.tokenizer.decode(completion.tokens[:-1]).startswith(text)
    assert completion.logprobs == [-float(i) for i in range(len(completion.tokens))]
    if not reason:
        assert completion.tokens == ids + [model.tokenizer.eos_id] * stopped


def test_a_stop_string_may_have_letters_of_many_bytes(model, monkeypatch):
    ids = model.tokenizer.encode(" né ☃ é")
    spoken(model, monkeypatch, ids, stopped=False)
    (completion,) = model.complete(["hi"], Sampling(max_new_tokens=24, stop=("☃",)))
    assert completion.text == "né "
    assert model.tokenizer.decode(completion.tokens) == " né "


def test_a_base_model_is_asked_in_a_document_and_ends_at_the_next_line(model, monkeypatch):
    base = model._replace(layout="document")
    said = base.tokenizer.encode(" hello\nUser: and you?")
    spoken(base, monkeypatch, said, stopped=False)
    sampling = Sampling(max_new_tokens=24)
    (turns,) = base.complete([user("hi")], sampling)
    assert (turns.text, turns.finish_reason) == ("hello", "stop_string")
    # A text is gone on with as it stands.
    (text,) = base.complete(["hi"], sampling)
    assert (text.text, text.finish_reason) == (" hello\nUser: and you?", "length")
    assert text.prompt_tokens == len(chat.render_opening("hi", base.tokenizer))


def test_what_does_not_fit_is_named_and_old_turns_are_left_out(model):
    with pytest.raises(UserError, match="prompt 2 is too long: that is .* reads 56 at a time"):
        model.complete(["hello", "x" * 90], SHORT)
    with pytest.raises(UserError, match="max_new_tokens 64 does not fit the model's context of 64"):
        model.complete(["hello"], Sampling(max_new_tokens=64))
    (completion,) = model.complete([user("x" * 40, "y" * 20, "hello")], SHORT)
    (alone,) = model.complete(["hello"], SHORT)
    assert completion.left_out == 2 and completion == alone._replace(left_out=2)


def test_a_prompt_without_a_user_is_kept_whole():
    messages = [{"role": "system", "content": "ss"}, {"role": "assistant", "content": "a"}]
    assert shorter(messages) == [messages]


def test_completions_on_a_mesh_are_those_of_one_device(model):
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    split = jax.device_put(model.params, rules.shardings(model.params, mesh, axes_of(model.config)))
    ours = model._replace(params=split, mesh=mesh).complete(PROMPTS, SHORT)
    for one, other in zip(ours, model.complete(PROMPTS, SHORT), strict=True):
        close(one, other)


def test_a_model_whose_padding_is_its_stop_token_stops(model):
    """As GPT-2 does, and in a chat at any of the tokens that end a turn or a document."""
    tokenizer = Tokenizer(vocabularies.gpt2()).with_template("chatml")
    config = dataclasses.replace(model.config, vocab_size=tokenizer.vocab_size)
    params = jax.tree.map(lambda x: 5.0 * x, init(config, jax.random.key(0)))
    served = TextModel(config, params, tokenizer)
    assert tokenizer.pad_id == tokenizer.document_id != tokenizer.eos_id
    for stop in tokenizer.stop_ids:
        word = tokenizer.encode("a")[0]
        wanted = favouring(served, [word, stop])
        found = wanted.complete(["hello", "you"], Sampling(max_new_tokens=30, n=8, seed=1))
        ended = [completion for completion in found if completion.finish_reason == "stop"]
        assert len(ended) > 8
        for completion in ended:
            assert completion.tokens[-1] == stop and stop not in completion.tokens[:-1]
            assert completion.text == "a" * (len(completion.tokens) - 1)
