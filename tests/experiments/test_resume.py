"""Invariant 6: killed at any moment and run again, a run ends with the very same parameters."""

import json
import os
import signal
import subprocess
import sys
import time

import chex
import pytest

from gpt_jax.metrics import read_metrics
from gpt_jax.report.openings import read_openings
from gpt_jax.train.checkpoint import load_params

STAGES = {"pretrain": 120, "sft": 80, "reward": 80, "ppo": 16}  # stage -> steps
OPTIONS = [
    f"--{stage}.train.{name}={value}"
    for stage, steps in STAGES.items()
    for name, value in {
        "steps": steps,
        "log-every": 1,
        "checkpoint-every": steps // 4,
        "evaluate-every": steps,
    }.items()
]
OPTIONS += ["--label.prompts=400"]  # a few chunks

ENVIRONMENT = os.environ | {"XLA_FLAGS": ""}  # one device


def start(folder) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.rlhf", "--preset=smoke", f"--run-dir={folder}"]
    return subprocess.Popen(
        command + OPTIONS, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output.decode()
    return output.decode()


def steps_written(folder) -> int:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def kill_inside(stage: str, folder) -> None:
    """Starts the run and sends SIGKILL in the last quarter of the stage.

    A third checkpoint is begun by then, and so the second is whole on disk. Labels are left with
    some of their answers drawn.
    """
    process = start(folder)
    deadline = time.monotonic() + 400
    least = 1 if stage == "label" else STAGES[stage] * 3 // 4 + 1
    while steps_written(folder / stage) < least:
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / stage / "finished").exists()


@pytest.mark.slow
def test_sigkill_inside_every_stage_changes_nothing(tmp_path):
    """Break it: drop `opt_state` from the checkpoint, or draw a key from the clock."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(whole))
    for stage in ("pretrain", "sft", "label", "reward", "ppo"):
        kill_inside(stage, broken)
    output = finish(start(broken))
    assert f"ppo: resuming {broken}/ppo from step" in output

    for stage, steps in STAGES.items():
        ours, theirs = load_params(whole / stage), load_params(broken / stage)
        chex.assert_trees_all_equal(ours, theirs)
        assert read_openings(whole / stage) == read_openings(broken / stage)
        rows = [json.loads(line) for line in (broken / stage / "metrics.jsonl").open()]
        logged = [row["step"] for row in rows if "eval/loss" not in row]
        assert logged == list(range(1, steps + 1)), "every step is logged exactly once"
    for name in ("answers.jsonl", "comparisons.jsonl", "held_out.jsonl"):
        ours, theirs = ((folder / "label" / name).read_bytes() for folder in (whole, broken))
        assert ours == theirs, name
    results = [json.loads((f / "results.json").read_text()) for f in (whole, broken)]
    for result in results:
        for name in ("seconds", "command", "peak_memory_gb"):
            result.pop(name)
    assert results[0] == results[1]

    again = finish(start(broken))
    assert again.count("already finished") == len(STAGES) + 1, "and the labels"


@pytest.mark.slow
def test_the_short_form_of_the_fault_command(tmp_path):
    """`tools.faults`, which also kills at the start and while a checkpoint is written."""
    steps = ("--pretrain=24", "--sft=16", "--reward=16", "--ppo=8")
    command = [sys.executable, "-m", "tools.faults", "--kills=8", f"--folder={tmp_path}"]
    faults = subprocess.run([*command, *steps], env=ENVIRONMENT, capture_output=True, text=True)
    assert faults.returncode == 0, faults.stdout + faults.stderr
    assert ": 0 lost, 0 different" in faults.stdout


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_resumes(tmp_path):
    """As users type it: exit code 0 after SIGTERM, 130 after Ctrl-C, and both say what to do."""
    options = (
        "--preset=smoke",
        "--mesh.data=1",
        f"--run-dir={tmp_path}/run",
        "--pretrain.train.steps=100000",
        "--pretrain.train.log-every=1",
        "--pretrain.train.checkpoint-every=100000",
    )
    reached = None
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        run = subprocess.Popen(
            [sys.executable, "-m", "experiments.pretrain", *options],
            env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while not any(row["step"] > (reached or 0) for row in read_metrics(tmp_path / "run")):
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.05)
        run.send_signal(number)
        output, _ = run.communicate(timeout=300)
        said = output.splitlines()
        assert run.returncode == code, output
        if reached:
            assert f"pretrain: resuming {tmp_path}/run from step {reached:,}" in said
        (checkpoint,) = (
            int(path.name)
            for path in (tmp_path / "run" / "checkpoints").iterdir()
            if path.name.isdigit() and path.name != str(reached)
        )
        reached = checkpoint
        assert f"pretrain: stopped after step {reached:,}; the same command resumes" in said
