"""The kernel benchmark on tiny shapes: it runs, checks before it times, and says why it cannot."""

import json

import jax.numpy as jnp
import pytest

from gpt_jax.errors import UserError
from tools import benchmark_kernels, timing


def test_it_times_every_op_on_this_device(monkeypatch, tmp_path, capsys):
    sizes = [(1, 16, 2, 1, 8)], [(2, 16, 2, 1, 8)], [(8, 8, 32)]
    monkeypatch.setattr(benchmark_kernels, "SMALL", sizes)
    monkeypatch.setattr(timing, "TURN_SECONDS", 1e-4)
    lines = benchmark_kernels.main(rounds=1, output=tmp_path / "bench.json")
    ours = [line for line in lines if line.contestant == "gpt_jax"]
    assert len(ours) == len({line.case for line in lines}) == 5
    for line in ours:
        assert line.seconds > 0 and line.rate > 0 and line.ours_is == 1.0, line
    missing = next(line for line in lines if line.contestant == "jax.nn, cudnn")
    assert missing.seconds is None and missing.note.startswith("- (")
    assert missing.note in " ".join(capsys.readouterr().out.split())
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["results"] == [line._asdict() for line in lines]


def test_a_wrong_contestant_gets_no_time():
    """Break it: put `calls[name]` before the check in `measure`."""

    def half(x):
        return x / 2

    contestants = {"ours": half, "wrong": lambda x: x / 2 + 0.01, "broken": lambda x: x @ x}
    case = timing.Case("halves", 8.0, "GB/s", (jnp.arange(1.0, 4.0)[None],), half, contestants, {})
    ours, wrong, broken = timing.measure(case, {"GB/s": 1e9}, rounds=2)
    assert ours.seconds > 0 and ours.rate == 8.0 / ours.seconds and ours.note == ""
    assert wrong.seconds is None and wrong.note.startswith("wrong (error")
    assert broken.seconds is None and broken.note.startswith("- (")


def test_tiles_are_measured_on_a_gpu_only():
    with pytest.raises(UserError, match="on a GPU"):
        benchmark_kernels.refresh_blocks(rounds=1)
