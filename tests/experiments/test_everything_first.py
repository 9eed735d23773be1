"""Invariant 13: what can be known at the start ends a run there, before any step.

Break it: call `run_stage` in `rlhf.main` before `look_ahead`, or leave `look_at` out of it.
"""

import json

import pytest

from experiments import rlhf
from gpt_jax.errors import UserError
from gpt_jax.train import command


class Started(Exception):
    """The first stage would train now."""


QUESTIONS = [f"what is number {i}?" for i in range(200)]
ROWS = {
    "text": [{"text": f"{question} it is this."} for question in QUESTIONS],
    "demonstrations": [{"prompt": q, "completion": "it is this."} for q in QUESTIONS],
    "comparisons": [{"prompt": q, "chosen": "it is this.", "rejected": "no."} for q in QUESTIONS],
}


def start(folder, monkeypatch, *options, kinds=tuple(ROWS)):
    """The recipe on little data of these kinds, up to the first stage."""

    def started(*_):
        raise Started

    monkeypatch.setattr(rlhf, "run_stage", started)
    data = [f"--data.{kind}={written(folder, f'{kind}.all', ROWS[kind])}" for kind in kinds]
    arguments = ["--preset=smoke", "--mesh.data=1", "--pretrain.model.vocab-size=264", *data]
    arguments += ["--pretrain.train.batch-size=8", f"--run-dir={folder}/run", *options]
    rlhf.main(command.parse(arguments, rlhf.presets, ""))


def written(folder, name, rows):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_run_that_can_work_starts(tmp_path, monkeypatch):
    with pytest.raises(Started):
        start(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--ppo.max-new-tokens=128"], "leaves no room for a prompt"),
        (["--ppo.max-new-tokens=500"], "leaves no room for a prompt"),
        (["--pretrain.train.accumulate=3"], "does not divide into 3 micro-batches"),
        (["--reward.train.accumulate=3"], "does not divide into 3 micro-batches"),
        (["--mesh.data=8", "--sft.train.batch-size=12"], "rows do not divide over"),
        (["--mesh.data=8", "--ppo.episodes=12", "--ppo.minibatches=2"], "rows do not divide over"),
        (["--mesh.data=1", "--mesh.tensor=3"], "does not divide"),
        (["--pretrain.model.heads=5"], "does not divide into 5 heads"),
        (["--pretrain.model.vocab-size=100"], "vocabulary of 100 is too small"),
        (["--ppo.minibatches=3"], "minibatches do not divide"),
        (["--ppo.ptx-coef=1", "--ppo.ptx-rows=7"], "7 ptx rows"),
    ],
)
def test_options_that_cannot_work(options, sentence, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=sentence):
        start(tmp_path, monkeypatch, *options)
    assert not (tmp_path / "run").exists(), "the same folder can be used with other options"


@pytest.mark.parametrize(
    ("kinds", "options", "sentence"),
    [
        (("text", "demonstrations"), [], "nobody knows how good .*--label.labeler people"),
        (("text",), ["--label.labeler=nowhere.json"], "there is no file nowhere.json"),
        (("text",), ["--label.labeler=a.json,b.json,c.json"], "names 3 files; give one, or two"),
        (
            ("text",),
            ["--label.labeler=people", "--label.agreement=0.7"],
            "agreement is that of",
        ),
        (("text",), ["--label.max-new-tokens=128"], "leaves no room for a prompt"),
        (("text",), ["--label.max-new-tokens=125"], "none of the .*prompts fits in 3 tokens"),
        (("text", "comparisons"), ["--rounds=2"], "--rounds needs labels"),
    ],
)
def test_labels_that_cannot_be_made(kinds, options, sentence, tmp_path, monkeypatch):
    """Break it: let `look_ahead` leave the label stage out."""
    with pytest.raises(UserError, match=sentence):
        start(tmp_path, monkeypatch, *options, kinds=kinds)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("labeler", ["gold", "people"])
def test_labels_that_can_be_made(labeler, tmp_path, monkeypatch):
    """Of the microworld's prompts; and by people, of those of somebody's own demonstrations."""
    kinds = ("text",) if labeler == "gold" else ("text", "demonstrations")
    with pytest.raises(Started):
        start(tmp_path, monkeypatch, f"--label.labeler={labeler}", "--rounds=2", kinds=kinds)


DOCUMENT = {"text": "a short document of a few words"}
PAIR = {"prompt": "what is it?", "chosen": "this is it.", "rejected": "I cannot say that."}


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("text", [DOCUMENT] * 8),
        ("text", [{"text": "one long line " * 5000}]),
        ("demonstrations", [{"prompt": "what?", "completion": "this."}] * 8),
        ("comparisons", [PAIR] * 200),
        ("prompts", [{"prompt": "what?"}] * 3),
        (
            "comparisons",
            [PAIR | {"prompt": f"{i}?", "rejected": PAIR["chosen"]} for i in range(200)],
        ),
    ],
    ids=["eight texts", "one line", "one question", "one prompt", "three prompts", "ties"],
)
def test_data_that_cannot_work(kind, rows, tmp_path, monkeypatch):
    """No part of it is left to test on, or to train on, or to learn from."""
    path = written(tmp_path, kind, rows)
    with pytest.raises(UserError, match=f"{kind}.jsonl"):
        start(tmp_path, monkeypatch, f"--data.{kind}={path}")
    assert not list(tmp_path.rglob("metrics.jsonl"))
