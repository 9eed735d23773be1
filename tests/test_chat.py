"""Talking to a model: what it gets to see, what it is asked to do, and how the program ends."""

import io
import sys

import jax
import pytest

from gpt_jax import chat, models
from gpt_jax.chat import Assistant, answer, converse, fit
from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    tokenizer = Tokenizer.train(["hello there, how are you?"] * 4, vocab_size=280)
    config = ModelConfig(tokenizer.vocab_size, context_length=64, width=16, layers=1, heads=2)
    params = models.init(config, jax.random.key(0))
    return Assistant(config, params, tokenizer, "sft", temperature=1.0, max_new_tokens=8)


def _message(role, content):
    return {"role": role, "content": content}


def _count(messages):
    """A prompt of one token per character."""
    return [0] * sum(len(message["content"]) for message in messages)


HISTORY = [
    _message("system", "ss"),
    _message("user", "aaaa"),
    _message("assistant", "bbbb"),
    _message("user", "cc"),
    _message("assistant", "dd"),
    _message("user", "e"),
]


@pytest.mark.parametrize(
    "limit, kept",
    [(15, "ss aaaa bbbb cc dd e"), (14, "ss cc dd e"), (7, "ss cc dd e"), (6, "ss e")],
)
def test_the_oldest_turns_go_first_and_the_rules_stay(limit, kept):
    assert " ".join(m["content"] for m in fit(HISTORY, _count, limit)) == kept


def test_a_message_that_cannot_fit_is_refused():
    with pytest.raises(UserError, match="3 tokens and the model reads 2"):
        fit(HISTORY, _count, 2)


def test_the_answer_is_the_same_whatever_the_prompt_is_padded_to(assistant, monkeypatch):
    """Invariant 1, seen from the chat. Break it: make `pad_prompts` pad with segment 1."""
    messages = [_message("user", "hello")]
    texts = []
    for bucket in (1, 8, 32):
        monkeypatch.setattr(chat, "BUCKET", bucket)
        texts.append(answer(assistant, messages, jax.random.key(3)))
    assert texts[0] and texts == [texts[0]] * 3


def test_a_long_conversation_keeps_going(assistant):
    lines = ["hello there, how are you?"] * 6
    replies = list(converse(assistant, lines, seed=0))
    assert len(replies) == 6
    assert replies == list(converse(assistant, lines, seed=0))


def test_a_base_model_gets_a_plain_document_and_only_its_own_line_is_shown(assistant, monkeypatch):
    base = assistant._replace(stage="base")
    tokenizer = base.tokenizer
    assert tokenizer.decode(base.prompt([_message("user", "hi")])) == " User: hi\nAssistant:"
    monkeypatch.setattr(Tokenizer, "decode", lambda *_: " hello\nUser: and you?\nAssistant: fine")
    assert answer(base, [_message("user", "hi")], jax.random.key(0)) == "hello"


def test_commands(assistant, monkeypatch):
    seen = []
    monkeypatch.setattr(chat, "answer", lambda _, messages, key: seen.append(messages) or "ok")
    lines = ["/system be brief", "one", "", "two", "/reset", "three", "/what", "/quit", "four"]
    replies = list(converse(assistant, lines, seed=0))
    assert [[m["content"] for m in messages] for messages in seen] == [
        ["be brief", "one"],
        ["be brief", "one", "ok", "two"],
        ["be brief", "three"],
    ]
    assert replies[-1] == chat.HELP


def test_a_message_that_is_too_long_is_said_and_forgotten(assistant):
    too_long, short = converse(assistant, ["x" * 200, "hello"], seed=0)
    assert "say it shorter" in too_long and "say it shorter" not in short


def _run(monkeypatch, assistant, typed):
    monkeypatch.setattr(chat, "load", lambda *_: assistant)
    monkeypatch.setattr(sys, "stdin", typed)
    chat.main("run")


def test_piped_input_is_answered_and_ends_politely(assistant, monkeypatch, capsys):
    _run(monkeypatch, assistant, io.StringIO("hello\n"))
    out = capsys.readouterr().out
    assert "ppo> " in out and out.endswith("Goodbye.\n")


def test_ctrl_c_ends_politely(assistant, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    _run(monkeypatch, assistant, io.StringIO())
    assert capsys.readouterr().out.endswith("Goodbye.\n")


@pytest.mark.parametrize(
    "there, sentence",
    [
        (None, "no such run folder"),
        ([], "no trained model"),
        (["pretrain", "sft"], "add --stage sft"),
    ],
)
def test_a_wrong_folder_is_one_sentence_and_exit_2(tmp_path, capsys, there, sentence):
    run = tmp_path / "run"
    for stage in there or []:
        (run / stage / "checkpoints").mkdir(parents=True)
    if there is not None:
        run.mkdir(exist_ok=True)
    with pytest.raises(SystemExit) as exit_:
        chat.main(run)
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1
