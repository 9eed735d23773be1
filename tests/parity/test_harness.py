"""The adapter for lm-evaluation-harness: our own likelihoods, and its windows.

Break it: give the sum of the probabilities, or forget `until`.
"""

import json

import numpy as np
import pytest

lm_eval_model = pytest.importorskip("lm_eval.api.model", exc_type=ImportError)

import jax  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402

from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.evaluate.harness import harness, sampling_of  # noqa: E402
from gpt_jax.evaluate.likelihood import loglikelihoods, rolling  # noqa: E402
from gpt_jax.generate.text import TextModel  # noqa: E402
from gpt_jax.models import ModelConfig, init  # noqa: E402
from gpt_jax.text.tokenizer import Tokenizer  # noqa: E402
from tools import compare_harness  # noqa: E402

WORDS = "the cat sat on the mat and saw a dog that ran to the red barn"


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(vocab_size=320, context_length=32, width=16, layers=1, heads=2)
    params = jax.tree.map(lambda x: 5.0 * x, init(config, jax.random.key(0)))
    return TextModel(config, params, Tokenizer.train([WORDS] * 3, 300))


def asked(kind, *many):
    return [Instance(kind, {}, args, number) for number, args in enumerate(many)]


def test_likelihoods_are_ours(model):
    pairs = [("the cat", " sat"), ("", "a dog"), ("the red ", "barn"), (WORDS, " the mat")]
    found = harness(model).loglikelihood(asked("loglikelihood", *pairs))
    ours = loglikelihoods(model, pairs)
    assert found == [(one.logprob, one.greedy) for one in ours]
    assert isinstance(harness(model), lm_eval_model.LM)


def test_whole_texts_are_read_in_the_windows_of_the_harness(model):
    """Its own cutting, each window scored as a continuation by the full forward pass."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    text = f"{WORDS} {WORDS} {WORDS} {WORDS}"
    (found,) = harness(model).loglikelihood_rolling(asked("loglikelihood_rolling", (text,)))
    tokenizer, width = model.tokenizer, model.config.context_length
    windows = get_rolling_token_windows(
        tokenizer.encode(text), tokenizer.document_id, max_seq_len=width, context_len=1
    )
    total = sum(_continuation(model, *make_disjoint_window(window)) for window in windows)
    assert found == pytest.approx(total, abs=1e-3)
    assert found == rolling(model, text, width).logprob


def _continuation(model, context, continuation):
    from gpt_jax.data.batches import Tokens
    from gpt_jax.models import forward, token_logprobs

    ids = np.array([[*context, *continuation]])
    read = Tokens(ids[:, :-1], np.arange(ids.shape[1] - 1)[None], np.ones_like(ids[:, :-1]))
    hidden, _ = forward(model.config, model.params, read)
    logprobs, _ = token_logprobs(model.config, model.params, hidden, ids[:, 1:])
    return float(np.asarray(logprobs, np.float64)[0, -len(continuation) :].sum())


def test_generation_ends_where_a_task_says(model, capsys):
    options = {"until": ["t"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0}
    requests = asked("generate_until", ("the cat", options), (f"{WORDS} " * 4, options))
    texts = harness(model).generate_until(requests)
    assert len(texts) == 2 and all("t" not in text for text in texts)
    assert "1 of 2 prompts lost their beginning" in capsys.readouterr().err
    with pytest.raises(UserError, match="no 'typical_p'"):
        sampling_of({"typical_p": 0.5}, model)


ROWS = {
    "hellaswag": {
        "activity_label": "Baking",
        "ctx_a": "A man [title] bakes  bread.",
        "ctx_b": "he",
        "endings": ["eats [x]it.", "sleeps.", "sings.", "leaves  it."],
        "label": 1,
    },
    "lambada": {"text": "A man bakes bread,\nand eats the bread"},
    "mmlu": {
        "subject": "anatomy",
        "question": " How many hands has a man?",
        "choices": ["1", "2", "3", "4"],
        "answer": "B",
    },
}


@pytest.mark.parametrize("task", ROWS)
def test_rows_are_worded_as_by_the_harness(task, tmp_path):
    """Break it: forget the space in front of an answer."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[task]) + "\n", encoding="utf-8")
    config = compare_harness.Config(model="runs/none", tasks=(f"{task}={path}",))
    name, ours, wanted = compare_harness.asked(config.tasks[0], config)
    assert name == task and len(ours) == len(
        ROWS[task].get("choices", ROWS[task].get("endings", "w"))
    )
    assert ours == wanted
