"""`--seeds` and `--sweep` as they are typed: stages behind one another, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import chex
import pytest

from gpt_jax.metrics import read_metrics
from gpt_jax.seeds import seeds_in
from gpt_jax.train.checkpoint import load_params

ENVIRONMENT = os.environ | {"XLA_FLAGS": ""}  # one device


def start(experiment, folder, *options):
    command = [sys.executable, "-m", f"experiments.{experiment}", "--preset=smoke", *options]
    return subprocess.Popen(
        [*command, f"--run-dir={folder}"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, code=0):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


@pytest.mark.slow
def test_stages_of_many_seeds_follow_one_another(tmp_path):
    """Every seed of a stage starts from its own of the stage before; seed 1 is seed 1 alone."""
    two = ("--seeds=2",)
    finish(start("pretrain", tmp_path / "pretrain", *two))
    finish(start("sft", tmp_path / "sft", *two, f"--init-from={tmp_path}/pretrain"))
    from_sft = f"--init-from={tmp_path}/sft"
    finish(start("label", tmp_path / "label", *two, from_sft))
    labels = f"--labels-from={tmp_path}/label"
    said = finish(start("reward", tmp_path / "reward", *two, from_sft, labels))
    assert "2 seeds" in said
    given = (from_sft, f"--reward-from={tmp_path}/reward", "--ppo.train.steps=6")
    said = finish(start("ppo", tmp_path / "ppo", *two, *given))
    assert "2 seeds in one program" in said
    for stage in ("pretrain", "sft", "label", "reward", "ppo"):
        assert seeds_in(tmp_path / stage) == [0, 1]
        assert (tmp_path / stage / "report.html").exists()
    alone = [
        f"--{name}-from={tmp_path}/{of}/seeds/1"
        for name, of in (("init", "sft"), ("reward", "reward"))
    ]
    finish(start("ppo", tmp_path / "alone", "--seed=1", *alone, "--ppo.train.steps=6"))
    ours, theirs = (load_params(tmp_path / f) for f in ("ppo/seeds/1", "alone"))
    chex.assert_trees_all_close(ours, theirs, atol=1e-5)

    # Killed between two checkpoints, and run again.
    process = start("ppo", tmp_path / "killed", *two, *given)
    while not any(row["step"] >= 3 for row in read_metrics(tmp_path / "killed")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "resuming" in finish(start("ppo", tmp_path / "killed", *two, *given))
    for seed in (0, 1):
        ours, theirs = (load_params(tmp_path / f / "seeds" / str(seed)) for f in ("killed", "ppo"))
        chex.assert_trees_all_equal(ours, theirs)


@pytest.mark.slow
def test_a_sweep_of_the_whole_recipe_with_seeds(tmp_path):
    """Two points of two seeds: tables with intervals over seeds, everywhere."""
    options = ["--seeds=2", "--sweep=ppo.kl_coef=0.1,0.5", "--label.prompts=64"]
    said = finish(start("rlhf", tmp_path / "run", *options))
    assert "point 2 of 2" in said and "gold" in said
    results = json.loads((tmp_path / "run" / "ppo.kl_coef=0.5" / "results.json").read_text())
    assert results["seeds"] == 2
    mean, low, high = results["models"][-1]["gold"]
    assert low <= mean <= high
    again = finish(start("rlhf", tmp_path / "run", *options))
    assert "already finished" in again and "%" not in again.split("point 1")[0]
