"""Talking to a model: what it gets to see, what it is asked to do, and how the program ends."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import jax
import optax
import pytest

from gpt_jax import chat, models
from gpt_jax.chat import Assistant, answer, converse
from gpt_jax.errors import UserError
from gpt_jax.generate import Sampling, TextModel
from gpt_jax.generate import text as text_module
from gpt_jax.generate.engine import Engine
from gpt_jax.generate.text import Completion
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
    engine = Engine(model, 1, 64, rows=1, chunk=32, steps=2)
    return Assistant(model, "ppo", Sampling(temperature=1.0, max_new_tokens=8), engine)


def said(assistant, messages, seed) -> str:
    return "".join(answer(assistant, messages, seed))


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
        said(tight, [*HISTORY[1:5], _message("user", "")], 0)


def test_the_answer_is_the_same_whatever_the_prompt_is_padded_to(assistant, monkeypatch):
    """Invariant 1, seen from the chat. Break it: make `pad_prompts` pad with segment 1."""
    messages, whole = [_message("user", "hello")], assistant._replace(engine=None)
    texts = [said(assistant, messages, 3)]
    for bucket in (1, 8, 32):
        monkeypatch.setattr(text_module, "NARROWEST", bucket)
        texts.append(said(whole, messages, 3))
    assert texts[0] and texts == [texts[0]] * 4


def test_a_long_conversation_keeps_going(assistant):
    lines = ["hello there, how are you?"] * 6
    shown = "".join(converse(assistant, lines))
    assert shown.count("ppo> ") == 6 and "turns no longer fit" in shown
    assert shown == "".join(converse(assistant, lines))


def test_a_base_model_gets_a_plain_document_and_only_its_own_line_is_shown(assistant, monkeypatch):
    base = assistant._replace(model=assistant.model._replace(layout="document"))
    seen = []
    rendered = chat_layout.render_document_prompt
    monkeypatch.setattr(
        chat_layout, "render_document_prompt", lambda *a: seen.append(rendered(*a)) or seen[-1]
    )
    decode = Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "decode", lambda *_: " hello\nUser: and you?\nAssistant: fine")
    assert said(base, [_message("user", "hi")], 0) == "hello"
    assert decode(base.model.tokenizer, seen[0]) == " User: hi\nAssistant:"
    assert not base.engine.busy


def saying(monkeypatch, text="ok"):
    """Lets every answer be the same; returns the list of the conversations."""
    seen = []

    def answer(assistant, messages, seed):
        seen.append([message["content"] for message in messages])
        yield text
        return Completion(text, [1], [0.0], "stop", 1)

    monkeypatch.setattr(chat, "answer", answer)
    return seen


def test_commands(assistant, monkeypatch):
    seen = saying(monkeypatch)
    lines = ["/undo", "/system be brief", "one", "", "two", "/again", "/undo", "three"]
    lines += ["/reset", "four", "/help", "/quit", "five"]
    shown = "".join(converse(assistant, lines)).splitlines()
    assert seen == [
        ["be brief", "one"],
        ["be brief", "one", "ok", "two"],
        ["be brief", "one", "ok", "two"],
        ["be brief", "one", "ok", "three"],
        ["be brief", "four"],
    ]
    assert shown[0] == "(nothing was asked yet)" and shown[-1] == chat.HELP
    assert "(taken back: two)" in shown and shown.count("ppo> ok") == 5


def test_a_message_that_is_too_long_is_said_and_forgotten(assistant):
    too_long, short = "".join(converse(assistant, ["x" * 200, "hello"])).splitlines()
    assert "say it shorter" in too_long and "say it shorter" not in short


@pytest.mark.parametrize("layout", ["chat", "document"])
def test_an_answer_in_parts_is_the_whole_one(assistant, layout):
    assistant = assistant._replace(model=assistant.model._replace(layout=layout))
    assistant.engine.model = assistant.model
    for seed in range(4):
        parts = list(answer(assistant, [_message("user", "hello")], seed))
        assert "".join(parts) == said(
            assistant._replace(engine=None), [_message("user", "hello")], seed
        )


def test_what_was_said_before_is_not_read_again(assistant):
    """Break it: begin the conversation anew in another slot."""
    engine, model = assistant.engine, assistant.model
    turns = [_message("user", "ABC DEF GHI JKL MNO")]
    first = model.asked(turns, 0, assistant.sampling).ids
    (whole,) = model.complete([turns], assistant.sampling)
    turns.append(_message("assistant", said(assistant, turns, assistant.sampling.seed)))
    known = [*first, *whole.tokens[:-1]]  # the last token that is drawn is not in the cache
    engine.counters.clear()
    turns.append(_message("user", "are you?"))
    said(assistant, turns, 1)
    second = model.asked(turns, 0, assistant.sampling).ids
    shared = len(os.path.commonprefix([known, second]))
    assert shared >= len(first) > 16
    assert engine.counters["copied"] == shared
    assert engine.counters["read"] == len(second) - shared


def test_a_model_without_a_cache_chats(run_folder, monkeypatch):
    monkeypatch.setattr(chat, "takes", lambda model: False)
    assistant = chat.load(run_folder, "sft")
    assert assistant.engine is None
    assert "sft> " in "".join(converse(assistant, ["hello"]))


def test_ctrl_c_stops_an_answer_and_keeps_the_conversation(assistant, monkeypatch):
    """Break it: let the signal break into the step, or forget what had been said."""
    engine = Engine(assistant.model, 1, 64, rows=1, chunk=32, steps=1)
    slow = assistant._replace(engine=engine, sampling=Sampling(max_new_tokens=24, seed=1))
    whole = said(slow, [_message("user", "hello")], 1)
    advance, calls = engine.advance, []

    def interrupted():
        calls.append(advance())
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return calls[-1]

    monkeypatch.setattr(engine, "advance", interrupted)
    asked = []
    submit = engine.submit
    monkeypatch.setattr(engine, "submit", lambda one: asked.append(one) or submit(one))
    before = signal.getsignal(signal.SIGINT)
    first, second = "".join(converse(slow, ["hello", "you"])).split("\nppo> ")
    half = first.removeprefix("ppo> ").removesuffix(" (stopped)")
    assert (
        first.endswith(" (stopped)") and whole.lstrip().startswith(half) and len(half) < len(whole)
    )
    told = assistant.model.tokenizer.decode(asked[1].ids)
    assert half in told and second.strip() and not engine.busy
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
def test_a_terminal_is_talked_to(run_folder):
    """Through a pseudo-terminal: a line, Ctrl-C at the empty prompt, and the end."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "TERM": "dumb", "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt_jax.chat", str(run_folder), "--stage", "sft"],
        **{"stdin": theirs, "stdout": theirs, "stderr": theirs, "env": environment},
    )
    os.close(theirs)
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        limit = threading.Timer(100, process.kill)
        limit.start()
        while text not in shown:
            try:
                more = os.read(ours, 4096)
            except OSError:  # the other end is closed
                more = b""
            assert more, shown
            shown += more
        limit.cancel()
        shown = shown.split(text, 1)[1]

    until(b"you> ")
    os.write(ours, b"hello\n")
    until(b"sft> ")
    until(b"you> ")
    time.sleep(1)  # readline has shown the prompt, and is about to wait
    process.send_signal(signal.SIGINT)
    until(b"Goodbye.")
    assert process.wait() == 0
    os.close(ours)


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
    saying(monkeypatch, "hello \ufffd")
    monkeypatch.setattr(sys, "stdout", shown)
    _run(monkeypatch, assistant, typed)
    shown.flush()
    lines = shown.buffer.getvalue().decode("ascii").splitlines()
    assert lines[1:] == ["ppo> hello ?", "Goodbye."]
