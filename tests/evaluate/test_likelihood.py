"""Likelihoods of texts: against the full table of a model's probabilities, whatever the batch."""

import itertools
import json

import jax
import numpy as np
import pytest

from experiments import evaluate
from gpt_jax.data.batches import pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.evaluate import benchmark as benchmarks
from gpt_jax.evaluate import likelihood
from gpt_jax.evaluate.likelihood import loglikelihoods, rolling
from gpt_jax.generate.text import TextModel
from gpt_jax.models import forward
from gpt_jax.models.config import ModelConfig
from gpt_jax.tasks import choices, gsm8k, humaneval
from gpt_jax.text.tokenizer import Tokenizer
from tests import tiny

STORY = {
    "activity_label": "Baking",
    "ctx_a": "A man [title] bakes  bread.",
    "ctx_b": "he",
    "endings": ["eats [x]it.", "sleeps."],
    "label": "1",
}


@pytest.fixture(scope="module")
def model() -> TextModel:
    tokenizer = Tokenizer.train(["hello there, how are you?"] * 4, 280)
    config = ModelConfig(vocab_size=288, context_length=48, width=16, layers=1, heads=2)
    params = tiny.params(config)
    return TextModel(config, params, tokenizer)


def table(model, ids):
    """float64 log-probabilities after every token."""
    tokens = pad_prompts([ids], 64, 0).tokens_BP
    hidden, _ = jax.jit(forward, static_argnums=0)(model.config, model.params, tokens)
    logits = np.asarray(hidden)[0, -len(ids) :] @ np.asarray(model.params["embed"]["tokens"]).T
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


PAIRS = [
    ("hello", " there"),
    ("hello there, how", " are you"),
    ("", "hello there"),
    ("how are ", "you"),
    ("you " * 80, "hello"),
]


def test_a_continuation_by_hand(model, monkeypatch):
    """Break it: score the first token of the continuation from its own hidden state."""
    encode, found = model.tokenizer.encode, loglikelihoods(model, PAIRS)
    for (context, continuation), one in zip(PAIRS, found, strict=True):
        n = len(encode(context + continuation)) - len(encode(context.rstrip()))
        ids = encode(context + continuation)
        ids = ids if context else [model.tokenizer.document_id, *ids]
        ids = ids[-model.config.context_length - 1 :]
        logp = table(model, ids[:-1])[-n:]
        assert one.tokens == n
        assert one.logprob == pytest.approx(logp[np.arange(n), ids[-n:]].sum(), abs=1e-4)
        assert one.greedy == (logp.argmax(axis=1) == ids[-n:]).all()
    assert found[-1].left_out > 0 and not any(one.left_out for one in found[:-1])
    monkeypatch.setattr(likelihood, "TOKENS", 32)  # one row at a time
    for ours, theirs in zip(loglikelihoods(model, PAIRS), found, strict=True):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)


def test_what_differs_in_its_last_token_is_read_once(model, monkeypatch):
    """Break it: put the second answer's targets over the first one's."""
    pairs = [("hello there, how", f" {letter}") for letter in "aeyh"]
    pairs += [("hello", " there"), ("hello there, how", " a"), ("hello", " there, how are")]
    alone = [loglikelihoods(model, [pair])[0] for pair in pairs]
    calls, score = [], likelihood._score
    monkeypatch.setattr(
        likelihood, "_score", lambda *args: calls.append(len(args[1])) or score(*args)
    )
    together = loglikelihoods(model, pairs)
    assert sum(calls) == 3
    for one, other in zip(together, alone, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert (one.greedy, one.tokens) == (other.greedy, other.tokens)


def test_windows_predict_every_token_once(model):
    """With a stride of 1 every token sees all that fits before it."""
    text = "hello there, how are you? " * 6
    ids = [model.tokenizer.document_id, *model.tokenizer.encode(text)]
    by_hand = 0.0
    for place in range(1, len(ids)):
        seen = ids[max(0, place - 16) : place]
        by_hand += table(model, seen)[-1, ids[place]]
    # The first window predicts its own tokens from fewer.
    found = rolling(model, text, stride=1, width=16)
    assert found.logprob == pytest.approx(by_hand, abs=1e-3)
    assert found.tokens == len(ids) - 1 and found.bytes == len(text)
    whole = rolling(model, text, stride=16, width=16)
    assert whole.tokens == found.tokens and whole.bits_per_byte > 0
    with pytest.raises(UserError, match="stride"):
        rolling(model, text, stride=20, width=16)


def test_rows_become_the_harness_questions():
    story = choices.hellaswag(STORY)
    assert story.context == "Baking: A man. bakes bread. He"
    assert story.options == (" eats it.", " sleeps.") and story.gold == 1
    exam = {"subject": "high_school_art", "question": "Who? ", "choices": list("wxyz")}
    found = choices.mmlu(exam | {"answer": "C"}, [exam | {"answer": 0}])
    assert found.context == (
        "The following are multiple choice questions (with answers) about high school art.\n\n"
        "Who?\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\nWho?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    assert found.options[found.gold] == " C"
    assert choices.lambada({"text": "to be or not"}) == choices.Example("to be or", (" not",))
    with pytest.raises(UserError, match="'endings'"):
        choices.hellaswag({name: value for name, value in STORY.items() if name != "endings"})


@pytest.mark.parametrize(
    "text, strict, flexible",
    [
        ("6 * 7 = 42\n#### 42", 1, 1),
        ("so the answer is $42.00.", 0, 1),
        ("#### 1,042 and not 42", 0, 1),
        ("#### 42,000", 0, 0),
        ("There is no number.", 0, 0),
        ("42 were there, 7 left", 0, 0),
        ("1.2.3", 0, 0),
    ],
)
def test_problems_are_graded_as_the_harness_does(text, strict, flexible):
    row = {"question": "?", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"}
    assert gsm8k.grade(row, [text]) == {"strict": strict, "flexible": flexible}
    many = gsm8k.grade(row, [text, "it is 42", "42", "42", "7"])
    assert many["majority"] == 1


def test_programs_are_run_and_pass_at_k_has_no_bias():
    row = {
        "prompt": "def add(a, b):\n",
        "entry_point": "add",
        "test": "def check(f):\n    assert f(1, 2) == 3\n",
    }
    right, wrong = "    return a + b\n", "    return a - b\n"
    assert humaneval.grade(row, [right, wrong]) == {"pass@1": 0.5}
    # Over all draws of k of n samples, of which c pass.
    for n, c, k in ((5, 2, 1), (6, 1, 3), (4, 4, 2), (5, 0, 2)):
        draws = list(itertools.combinations(range(n), k))
        share = sum(any(i < c for i in draw) for draw in draws) / len(draws)
        assert humaneval.pass_at_k(n, c, k) == pytest.approx(share)


def test_a_run_goes_on_where_it_was_cut(model, tmp_path):
    """Break it: keep the line that was half written."""
    rows = [STORY | {"label": i % 2} for i in range(9)]
    benchmark = evaluate.BENCHMARKS["hellaswag"]
    path = tmp_path / "hellaswag.jsonl"
    model = model._replace(config=model.config)
    whole = benchmarks.run(benchmark, rows, [], model, path)
    assert whole["rows"] == 9 and whole["acc"][0] == pytest.approx(4 / 9, abs=0.12)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:10])
    assert benchmarks.run(benchmark, rows, [], model, path) == whole
    assert path.read_bytes().splitlines(keepends=True) == lines


def test_the_command_refuses_what_it_cannot_know(tmp_path):
    def options(*tasks, **more):
        return evaluate.Options(model="nowhere", tasks=tasks, run_dir=str(tmp_path), **more)

    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(STORY) + "\n")
    with pytest.raises(UserError, match="no task 'riddles'"):
        evaluate.main(options("riddles"))
    with pytest.raises(UserError, match="gsm8k shows 5 rows"):
        evaluate.main(options(f"gsm8k={file}"))
    with pytest.raises(UserError, match="perplexity needs a text"):
        evaluate.main(options("perplexity"))
