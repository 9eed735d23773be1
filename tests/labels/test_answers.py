"""Invariant 6: answers that are drawn in parts are those that are drawn at once."""

import json
import os
import signal

import pytest

from gpt_jax.errors import UserError
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Completion
from gpt_jax.labels import answers
from gpt_jax.labels.answers import CHUNK, FILE, draw_answers, read_answers
from gpt_jax.metrics import MetricWriter, read_metrics

ASKED = [
    {"split": "train", "prompt": [{"role": "user", "content": f"{n}?"}], "record": {"n": n}}
    for n in range(2 * CHUNK + 9)
]


class Killed(Exception):
    """As by a signal that nobody catches."""


def complete(prompts, sampling):
    """Each answer is the prompt with the number of the draw."""
    return [
        Completion(f"{prompt[0]['content']} {n}", [1, 2], [0.0, 0.0], "stop", 3)
        for prompt in prompts
        for n in range(sampling.n)
    ]


def draw(folder, model=complete):
    with MetricWriter(folder) as show:
        draw_answers(folder, ASKED, model, Sampling(n=3), show)
    return read_answers(folder, ASKED)


def killed_at(call):
    calls = 0

    def model(prompts, sampling):
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return complete(prompts, sampling)

    return model


@pytest.mark.parametrize("torn", [b"", b'{"split": "tr', b'{"split": "train"}\n'])
def test_a_killed_labeling_goes_on(tmp_path, torn):
    """Break it: let `read_answers` take the lines of a chunk that is not whole."""
    rows = draw(tmp_path / "whole")
    assert [row["completions"][2] for row in rows] == [f"{n}? 2" for n in range(len(ASKED))]
    assert all(row["stopped"] == [True] * 3 for row in rows)
    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        draw(broken, killed_at(2))
    with (broken / FILE).open("ab") as file:
        file.write(torn)
    assert len(read_answers(broken, ASKED)) == CHUNK
    assert draw(broken, killed_at(3)) == rows, "two chunks are left"
    assert (broken / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    assert [row["step"] for row in read_metrics(broken)] == [CHUNK, 2 * CHUNK, len(ASKED)]
    assert draw(broken, killed_at(1)) == rows, "nothing is left"


def test_a_signal_waits_for_the_chunk(tmp_path, capsys):
    def model(prompts, sampling):
        os.kill(os.getpid(), signal.SIGTERM)
        return complete(prompts, sampling)

    with pytest.raises(SystemExit) as ended:
        draw(tmp_path, model)
    assert ended.value.code == 0 and len(read_answers(tmp_path, ASKED)) == CHUNK
    assert f"label: stopped after {CHUNK} of {len(ASKED)} prompts" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": [{"role": "user", "content": "another?"}]},
        {"completions": ["one"]},
        {"completions": [1, 2, 3]},
        {"split": "test"},
    ],
)
def test_answers_to_other_prompts_are_named(tmp_path, monkeypatch, change):
    monkeypatch.setattr(answers, "CHUNK", 1)
    line = json.dumps(draw(tmp_path)[1] | change)
    lines = (tmp_path / FILE).read_text().splitlines()
    (tmp_path / FILE).write_text("\n".join([lines[0], line, *lines[2:], ""]))
    with pytest.raises(UserError, match=f"{FILE}:2 is not a row of this labeling"):
        read_answers(tmp_path, ASKED)
