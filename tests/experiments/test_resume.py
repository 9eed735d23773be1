"""Invariant 6: killed at any moment and run again, a run ends with the very same parameters."""

import json
import os
import signal
import subprocess
import sys
import time

import chex

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

    A third checkpoint is begun by then, and so the second is whole on disk.
    """
    process = start(folder)
    deadline = time.monotonic() + 400
    while steps_written(folder / stage) < STAGES[stage] * 3 // 4 + 1:
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / stage / "finished").exists()


def test_sigkill_inside_every_stage_changes_nothing(tmp_path):
    """Break it: drop `opt_state` from the checkpoint, or draw a key from the clock."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(whole))
    for stage in STAGES:
        kill_inside(stage, broken)
    output = finish(start(broken))
    assert f"ppo: resuming {broken}/ppo from step" in output

    for stage, steps in STAGES.items():
        ours, theirs = load_params(whole / stage), load_params(broken / stage)
        chex.assert_trees_all_equal(ours, theirs)
        rows = [json.loads(line) for line in (broken / stage / "metrics.jsonl").open()]
        logged = [row["step"] for row in rows if "eval/loss" not in row]
        assert logged == list(range(1, steps + 1)), "every step is logged exactly once"
    results = [json.loads((f / "results.json").read_text()) for f in (whole, broken)]
    for result in results:
        result.pop("seconds"), result.pop("command")
    assert results[0] == results[1]

    again = finish(start(broken))
    assert again.count("already finished") == len(STAGES)
