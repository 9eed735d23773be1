"""Talking to a model: what it gets to see, what it is asked to do, and how the program ends."""

import io
import json
import sys

import jax
import optax
import pytest

from gpt_jax import chat, models
from gpt_jax.chat import Assistant, answer, converse
from gpt_jax.errors import UserError
from gpt_jax.generate import Sampling, TextModel
from gpt_jax.generate import text as text_module
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.heads import init_scorer
from gpt_jax.text import chat as chat_layout
from gpt_jax.text.chat import shorten
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.checkpoint import Checkpoints, save_model_files
from gpt_jax.train.served import open_run
from gpt_jax.train.state import TrainState


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    tokenizer = Tokenizer.train(["hello there, how are you?"] * 4, vocab_size=276)
    config = ModelConfig(tokenizer.vocab_size, context_length=64, width=16, layers=1, heads=2)
    params = models.init(config, jax.random.key(0))
    model = TextModel(config, params, tokenizer)
    return Assistant(model, "ppo", Sampling(temperature=1.0, max_new_tokens=8))


def _message(role, content):
    return {"role": role, "content": content}


def _count(messages, tokenizer=None):
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
    assert " ".join(m["content"] for m in shorten(HISTORY, None, limit, _count)) == kept


def test_a_message_that_cannot_fit_is_refused(assistant):
    tight = assistant._replace(sampling=Sampling(max_new_tokens=62))
    with pytest.raises(UserError, match="3 tokens and the model reads 2"):
        answer(tight, [*HISTORY[1:5], _message("user", "")], 0)


def test_the_answer_is_the_same_whatever_the_prompt_is_padded_to(assistant, monkeypatch):
    """Invariant 1, seen from the chat. Break it: make `pad_prompts` pad with segment 1."""
    messages = [_message("user", "hello")]
    texts = []
    for bucket in (1, 8, 32):
        monkeypatch.setattr(text_module, "NARROWEST", bucket)
        texts.append(answer(assistant, messages, 3))
    assert texts[0] and texts == [texts[0]] * 3


def test_a_long_conversation_keeps_going(assistant):
    lines = ["hello there, how are you?"] * 6
    replies = list(converse(assistant, lines))
    assert len(replies) == 6
    assert replies == list(converse(assistant, lines))


def test_a_base_model_gets_a_plain_document_and_only_its_own_line_is_shown(assistant, monkeypatch):
    base = assistant._replace(model=assistant.model._replace(layout="document"))
    seen = []
    rendered = chat_layout.render_document_prompt
    monkeypatch.setattr(
        chat_layout, "render_document_prompt", lambda *a: seen.append(rendered(*a)) or seen[-1]
    )
    decode = Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "decode", lambda *_: " hello\nUser: and you?\nAssistant: fine")
    assert answer(base, [_message("user", "hi")], 0) == "hello"
    assert decode(base.model.tokenizer, seen[0]) == " User: hi\nAssistant:"


def test_commands(assistant, monkeypatch):
    seen = []
    monkeypatch.setattr(chat, "answer", lambda _, messages, seed: seen.append(messages) or "ok")
    lines = ["/system be brief", "one", "", "two", "/reset", "three", "/what", "/quit", "four"]
    replies = list(converse(assistant, lines))
    assert [[m["content"] for m in messages] for messages in seen] == [
        ["be brief", "one"],
        ["be brief", "one", "ok", "two"],
        ["be brief", "three"],
    ]
    assert replies[-1] == chat.HELP


def test_a_message_that_is_too_long_is_said_and_forgotten(assistant):
    too_long, short = converse(assistant, ["x" * 200, "hello"])
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


@pytest.fixture(scope="module")
def run_folder(assistant, tmp_path_factory):
    """A run folder with the models of three stages, all the same parameters."""
    folder, model = tmp_path_factory.mktemp("runs"), assistant.model
    scorer = init_scorer(model.config, model.params, jax.random.key(0))
    for stage, params in (("pretrain", model.params), ("sft", model.params), ("reward", scorer)):
        save_model_files(folder / stage, model.config, model.tokenizer)
        (folder / stage / "config.json").write_text(json.dumps({"stage": stage}))
        state = TrainState.create(params, optax.identity())
        checkpoints = Checkpoints(folder / stage)
        checkpoints.save(1, state)
        checkpoints.close()
    return folder


def test_a_run_is_asked_as_its_stage_was_trained(run_folder):
    assert open_run(run_folder).layout == "chat"
    assert open_run(run_folder, "base").layout == "document"
    # A stage's own folder is what it is, whatever is asked for.
    assert chat.load(run_folder / "pretrain", "ppo").model.layout == "document"
    assert chat.load(run_folder / "pretrain", "ppo").name == "pretrain"
    assert chat.load(run_folder, "sft").sampling.max_new_tokens == 32


def test_a_reward_model_has_no_text_to_give(run_folder, capsys):
    with pytest.raises(SystemExit) as exit_:
        chat.main(run_folder / "reward")
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and "it has no text to give" in error and error.count("\n") == 1


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"max_new_tokens": 64}, {"seed": -1}])
def test_an_option_the_model_cannot_meet_is_refused_before_the_first_line(
    run_folder, options, capsys
):
    with pytest.raises(SystemExit) as exit_:
        chat.main(run_folder, "sft", **options)
    printed = capsys.readouterr()
    assert exit_.value.code == 2 and printed.out == "" and printed.err.count("\n") == 1


def test_a_folder_that_does_not_say_its_stage_is_a_sentence(run_folder, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for text in (None, "{", "[]", "{}"):
        if text is not None:
            (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="does not say which stage"):
            open_run(tmp_path)


def test_a_wrong_byte_is_a_wrong_letter_and_so_is_one_that_cannot_be_shown(assistant, monkeypatch):
    """Break it: leave out `reconfigure`."""
    typed = io.TextIOWrapper(io.BytesIO(b"hello \xff\n"), encoding="utf-8")
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(chat, "answer", lambda _, messages, seed: messages[-1]["content"])
    monkeypatch.setattr(sys, "stdout", shown)
    _run(monkeypatch, assistant, typed)
    shown.flush()
    lines = shown.buffer.getvalue().decode("ascii").splitlines()
    assert lines[1:] == ["ppo> hello ?", "Goodbye."]
