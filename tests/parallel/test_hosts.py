"""Two processes over gloo, four devices each, against one process with all eight."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

from experiments import rlhf
from gpt_jax.data import pipeline
from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError
from gpt_jax.metrics import read_metrics
from gpt_jax.parallel import distributed, rules
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.report.openings import read_openings
from gpt_jax.train import command
from gpt_jax.train.checkpoint import Checkpoints, load_params

STAGES = {"pretrain": 3, "sft": 2, "reward": 2, "ppo": 2}
OPTIONS = [
    "--preset=smoke",
    *("--mesh.data=2", "--mesh.fsdp=2", "--mesh.tensor=2"),
    *(f"--{stage}.train.steps={steps}" for stage, steps in STAGES.items()),
    *(f"--{stage}.train.log-every=1" for stage in STAGES),
    *("--evaluate.prompts=16", "--reward.calibration-rows=16", "--reward.longest=48"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """Few comparisons: a batch is slow when two processes on two cores meet for every layer."""
    folder = tmp_path_factory.mktemp("data")
    for split, rows in (("train", 64), ("test", 32)):
        pairs = DataConfig().read("comparisons", split)[:rows]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return [
        f"--data.comparisons={folder}/train.jsonl",
        f"--data.test-comparisons={folder}/test.jsonl",
        "--data.prompts=microworld",
    ]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start_two(folder, *options, experiment="rlhf") -> list[subprocess.Popen]:
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-m", f"experiments.{experiment}", *options, f"--run-dir={folder}"]
            + [f"--coordinator=localhost:{port}", "--processes=2", f"--process-id={i}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """The folders of the same run by two processes and by one; what the two printed."""
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    processes = start_two(two, *OPTIONS, *data)
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    rlhf.main(command.parse([*OPTIONS, *data, f"--run-dir={one}"], rlhf.presets, ""))
    return two, one, outputs


def determined(stage) -> dict[str, jax.Array]:
    """The parameters of a stage that its loss determines, by name.

    Ranking is blind to whatever shifts all scores alike, the biases of the head and of the norm
    before it: their gradient is rounding error, of which Adam makes whole steps. Calibration
    takes out what they do to the scores. So with the bias of the keys, which shifts all that a
    query is compared with alike.
    """
    leaves = jax.tree_util.tree_leaves_with_path(load_params(stage))
    named = {rules.path_name(path): leaf for path, leaf in leaves}
    blind = ("head/bias", "backbone/final_norm/bias", "attn/k_bias")
    return {name: leaf for name, leaf in named.items() if not name.endswith(blind)}


@pytest.mark.slow
def test_all_stages_give_the_numbers_of_one_process(runs):
    """Break it: let every process read the first rows of the batch (`share` gives (0, 1))."""
    two, one, _ = runs
    for stage, steps in STAGES.items():
        rows = [read_metrics(folder / stage) for folder in (two, one)]
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
        assert rows[0][-1]["step"] == steps
        for ours, theirs in zip(*rows, strict=True):
            # The mean reward is not determined until the calibration at the end.
            left_out = {"tokens_per_second", "seconds_per_step", "eps", "mean_reward"}
            assert ours.keys() == theirs.keys()
            for name in ours.keys() - left_out:
                assert ours[name] == pytest.approx(theirs[name], abs=1e-5, rel=1e-5), (stage, name)
        chex.assert_trees_all_close(
            determined(two / stage), determined(one / stage), atol=1e-5, rtol=1e-5
        )


@pytest.mark.slow
def test_generation_gives_the_answers_of_one_process(runs):
    two, one, _ = runs
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (two, one))
    assert ours["samples"] == theirs["samples"]
    assert read_openings(two / "pretrain") == read_openings(one / "pretrain") != []
    for a, b in zip(ours["models"], theirs["models"], strict=True):
        assert a["name"] == b["name"]
        for name in ("gold", "reward", "kl_from_sft", "length", "entropy"):
            assert a[name] == pytest.approx(b[name], abs=1e-4), (a["name"], name)


@pytest.mark.slow
def test_only_process_0_speaks(runs):
    two, _, (first, second) = runs
    assert "ppo  2/2" in first and "report.html has the plots" in first
    assert "ppo" not in second and "report.html" not in second
    config = json.loads((two / "ppo" / "config.json").read_text())
    assert not {"coordinator", "processes", "process_id", "replay", "run_dir"} & set(config)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_same_command_resumes(runs, data):
    """SIGKILL of one process: the other must not wait for ever."""
    two, *_ = runs
    uninterrupted = load_params(two / "ppo")
    shutil.rmtree(two / "ppo")
    processes = start_two(two, *OPTIONS, *data)
    try:
        for line in processes[0].stdout:  # both have met when the first stage is passed over
            if "sft: " in line:
                break
        processes[1].kill()
        assert processes[0].wait(timeout=150) != 0
    finally:
        for process in processes:
            process.kill()
    assert not (two / "ppo" / "finished").exists()
    processes = start_two(two, *OPTIONS, *data)
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    chex.assert_trees_all_equal(load_params(two / "ppo"), uninterrupted)


@pytest.mark.slow
def test_sigterm_to_one_process_saves_on_both_and_the_same_command_resumes(tmp_path):
    options = ["--preset=smoke", "--mesh.fsdp=8", "--pretrain.train.log-every=1"]
    options += ["--pretrain.train.checkpoint-every=100000", "--pretrain.train.steps=100000"]
    processes = start_two(tmp_path / "run", *options, experiment="pretrain")
    while len(read_metrics(tmp_path / "run")) < 2:
        assert processes[0].poll() is None, processes[0].communicate()[0]
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=150)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    (step,) = Checkpoints(tmp_path / "run").steps()
    assert {row["step"] for row in read_openings(tmp_path / "run")} == {1}
    assert f"stopped after step {step:,}; the same command resumes" in outputs[0]

    processes = start_two(tmp_path / "run", *options, experiment="pretrain")
    for line in processes[0].stdout:
        if "resuming" in line:
            break
    for process in processes:
        process.kill()
        process.communicate()
    assert f"from step {step:,}" in line


def test_processes_that_differ_in_tensor_alone_hold_the_same_rows():
    """One process here holds all: whatever the mesh, its share is everything."""
    for config in (MeshConfig(data=8), MeshConfig(tensor=8), MeshConfig(data=2, fsdp=2, tensor=2)):
        assert pipeline.share(make_mesh(config)) == (0, 1)


def test_evaluation_rows_in_order_are_all_rows():
    rows = {"x_B": np.arange(24)}
    parts = pipeline.in_order(rows, 8, make_mesh(MeshConfig(data=2, fsdp=4)))
    np.testing.assert_array_equal(np.concatenate([part["x_B"] for part in parts]), rows["x_B"])


@pytest.mark.parametrize(
    "given",
    [("localhost:1", 2, None), ("auto", 2, 0), (None, 2, 0), ("localhost:1", None, None)],
)
def test_flags_that_do_not_fit_are_one_sentence(given):
    with pytest.raises(UserError, match="--processes and --process-id go together"):
        distributed.start(*given)


def test_the_environment_of_many_processes_is_seen():
    slurm = dict.fromkeys(distributed.SLURM, "1")
    assert distributed.among_many(slurm | {"SLURM_NTASKS": "16"})
    assert not distributed.among_many(slurm), "srun with one task"
    assert not distributed.among_many({"SLURM_NTASKS": "16"}), "an sbatch script, outside of srun"
    assert distributed.among_many({"TPU_WORKER_HOSTNAMES": "host-0,host-1"})
    assert not distributed.among_many({"TPU_WORKER_HOSTNAMES": "localhost"})


def test_one_process_needs_no_collective():
    seen = []
    distributed.on_main(functools.partial(seen.append, 1))
    assert seen == [1] and distributed.agree(7) == 7 and distributed.is_main()
    chex.assert_trees_all_equal(distributed.fetch({"a": jax.numpy.ones(2)}), {"a": np.ones(2)})
