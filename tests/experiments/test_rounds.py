"""Several rounds: the last policy's answers are labeled, a reward model learns, PPO goes on."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest

from experiments import rlhf
from gpt_jax.errors import UserError
from gpt_jax.metrics import read_metrics
from gpt_jax.train import command
from gpt_jax.train.checkpoint import load_params
from gpt_jax.train.served import open_run

pytestmark = pytest.mark.slow  # two whole rounds

STEPS = {"pretrain": 6, "sft": 3, "reward": 3, "ppo": 2}
OPTIONS = [f"--{stage}.train.steps={steps}" for stage, steps in STEPS.items()]
OPTIONS += ["--preset=smoke", "--mesh.data=1", "--rounds=2", "--evaluate.prompts=16"]
OPTIONS += ["--label.prompts=32", "--reward.calibration-rows=16"]


def recipe(folder):
    return command.parse([*OPTIONS, f"--run-dir={folder}"], rlhf.presets, "")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    return folder, rlhf.main(recipe(folder))


def test_both_rounds_are_there(run):
    folder, results = run
    names = [model["name"] for model in results["models"]]
    assert names == ["base", "SFT", "best-of-2", "PPO", "PPO, round 2"]
    page = (folder / "report.html").read_text()
    for title in ("Labels", "Labels, round 2", "Reward model, round 2", "PPO, round 2"):
        assert f"<h3>{title}</h3>" in page
    chex.assert_trees_all_equal(
        open_run(folder).params, load_params(folder / "ppo2", part="policy")
    )
    first, second = ((folder / f"label{end}" / "answers.jsonl").read_text() for end in ("", "2"))
    rows = [[json.loads(line) for line in some.splitlines()] for some in (first, second)]
    assert [row["prompt"] for row in rows[0]] != [row["prompt"] for row in rows[1]]
    pairs = [json.loads((folder / f"label{end}/labels.json").read_text()) for end in ("", "2")]
    learned = sum(one["train"] for one in pairs)
    missing = json.loads((folder / "reward2" / "data.json").read_text())["left_out"]
    assert all(f"(of {learned})" in entry["what"] for entry in missing if "2 comp" in entry["what"])


def test_the_policy_goes_on_and_is_held_to_the_finetuned_model(run):
    """Break it: start the second round from `init_from`, or take the policy as reference."""
    folder, _ = run
    first, second = (read_metrics(folder / name)[0] for name in ("ppo", "ppo2"))
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert abs(second["objective/kl"]) > 1e-4

    def distance(name, other):
        trees = (load_params(folder / stage, part="policy") for stage in (name, other))
        gaps = jax.tree.map(lambda a, b: float(np.square(a - b).sum()), *trees)
        return sum(jax.tree.leaves(gaps))

    assert distance("ppo2", "ppo") < distance("ppo2", "sft")


def test_a_later_round_is_made_anew_to_the_same_bits(run, tmp_path, capsys):
    """Invariant 6, also where the labels of an earlier start are there already."""
    folder, results = run
    again = tmp_path / "run"
    shutil.copytree(folder, again)
    for name in ("reward2", "ppo2"):
        shutil.rmtree(again / name)
    found = rlhf.main(recipe(again))
    assert "label: " in capsys.readouterr().out
    assert found["models"] == results["models"]
    chex.assert_trees_all_equal(load_params(again / "ppo2"), load_params(folder / "ppo2"))


def test_a_later_round_behind_one_that_changes_is_refused(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    shutil.rmtree(folder / "ppo")
    with pytest.raises(UserError, match="label2 was made from what ppo had come to before"):
        rlhf.main(recipe(folder))
