"""Invariant 12: what a user gets wrong ends in one clear sentence and exit code 2."""

import os
import shutil
import subprocess
import sys

import pytest

ENVIRONMENT = os.environ | {"XLA_FLAGS": ""}


def run(*arguments, experiment="rlhf", cwd=None):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{experiment}", "--preset=smoke", *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"PYTHONPATH": os.getcwd()},
        cwd=cwd,
        timeout=300,
    )


def snapshot(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A finished smoke pretraining run."""
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    done = run("--run-dir", str(folder), experiment="pretrain")
    assert done.returncode == 0, done.stderr
    return folder


def assert_one_sentence(done, *fragments):
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    line = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(line) == 1
    for fragment in fragments:
        assert fragment in line[0]


def test_help_reads_like_documentation():
    done = run("--help")
    assert done.returncode == 0
    for fragment in (
        "tokenizer, pretraining, SFT, labels, reward model, PPO",
        "--ppo.kl-coef",
        "The (initial) price of a nat of KL",
        "--data.text",
        "--mesh.fsdp",
    ):
        assert fragment in " ".join(done.stdout.replace("│", " ").split())


def test_unknown_option(tmp_path):
    done = run("--run-dir", str(tmp_path / "x"), "--ppo.no-such-option", "3")
    assert done.returncode == 2
    assert "no-such-option" in done.stderr + done.stdout
    assert not (tmp_path / "x").exists()


def test_unknown_preset(tmp_path):
    done = run("--preset=huge", "--run-dir", str(tmp_path / "x"))
    assert_one_sentence(done, "'huge'", "smoke, tiny, colab")


@pytest.mark.parametrize("kind", ["text", "demonstrations", "comparisons", "prompts"])
def test_missing_file(kind, tmp_path):
    done = run("--run-dir", str(tmp_path / "x"), f"--data.{kind}", "nowhere.jsonl")
    assert_one_sentence(done, "nowhere.jsonl", "no such file")
    assert not (tmp_path / "x").exists()


def test_broken_row_stops_before_training(tmp_path):
    good = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    (tmp_path / "pairs.jsonl").write_text(good * 3 + '{"prompt": "a", "chosen": 7}\n')
    done = run("--run-dir", str(tmp_path / "x"), "--data.comparisons", f"{tmp_path}/pairs.jsonl")
    assert_one_sentence(done, "pairs.jsonl:4")
    assert not (tmp_path / "x").exists()


def test_mesh_that_does_not_divide(tmp_path):
    done = run("--run-dir", str(tmp_path / "x"), "--mesh.fsdp", "3", experiment="pretrain")
    assert_one_sentence(done, "do not divide by fsdp=3")


def test_missing_stage(tmp_path):
    done = run("--init-from", str(tmp_path / "no"), "--run-dir", f"{tmp_path}/x", experiment="sft")
    assert_one_sentence(done, "there is no model here")


@pytest.mark.slow
def test_another_configuration_on_the_same_folder(pretrained):
    before = snapshot(pretrained)
    done = run("--run-dir", str(pretrained), "--seed", "5", experiment="pretrain")
    assert_one_sentence(done, "seed was 0 and is now 5", "--run-dir")
    assert snapshot(pretrained) == before


@pytest.mark.slow
def test_corrupt_checkpoint_is_named_and_left_alone(pretrained, tmp_path):
    folder = tmp_path / "pretrain"
    shutil.copytree(pretrained, folder)
    newest = max((folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
    for file in (newest / "params").rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(file.read_bytes()[:100])
    before = snapshot(folder)
    done = run("--init-from", str(folder), "--run-dir", f"{tmp_path}/sft", experiment="sft")
    assert_one_sentence(done, f"{newest}", "cannot be read", "move it away")
    (folder / "finished").unlink()
    resumed = run("--run-dir", str(folder), experiment="pretrain")
    assert_one_sentence(resumed, f"{newest}", "go on from step 10")
    before.pop(folder / "finished")
    assert snapshot(folder) == before
