"""The stages as a user runs them, in the smoke preset."""

import dataclasses
import functools
import json
import math
import shutil
from collections import Counter

import chex
import jax
import numpy as np
import pytest

from experiments import confidence_penalty, label, ppo, pretrain, reward, rlhf, sft
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pad_comparisons, without_empty
from gpt_jax.data.ranking import ranks_of
from gpt_jax.errors import UserError
from gpt_jax.generate import Sampling
from gpt_jax.labels.people import answers_number
from gpt_jax.losses.ranking import score_comparisons
from gpt_jax.metrics import read_metrics
from gpt_jax.models.contract import param_shapes
from gpt_jax.parallel.mesh import MeshConfig
from gpt_jax.report.openings import read_openings
from gpt_jax.rl.scoring import trained_length
from gpt_jax.tasks.microworld import MICROWORLD
from gpt_jax.train import command
from gpt_jax.train.checkpoint import load_model_files, load_params
from gpt_jax.train.origin import load_model
from gpt_jax.train.served import open_run

ONE = MeshConfig(data=1)


COMPILED = Counter()  # by name, while the fixture `run` runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished smoke run of the whole recipe, and its results."""

    def count(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            COMPILED[about.get("fun_name", "").removeprefix("jit(").removesuffix(")")] += 1

    folder = tmp_path_factory.mktemp("rlhf")
    config = command.parse(
        ["--preset=smoke", f"--run-dir={folder}", "--mesh.data=1"], rlhf.presets, ""
    )
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        return folder, rlhf.main(config)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


# What the smoke recipe compiles, and why so often. (Programs of one number, which the host asks
# for by the way, are left out.)
PROGRAMS = {
    "init": 3,  # pretraining, finetuning and the reward model start from different things
    "train_step": 3,  # ... and have different losses, or lengths of the schedule
    "init_state": 1,  # PPO
    "whole": 1,  # its iteration
    "metrics_of": 4,  # held-out: documents, conversations, comparisons; and the calibration
    "_sums": 8,  # checksums: parameters and the rest, of four states
    "generate": 6,  # openings; labels: prompts of three widths; evaluation: as turns, as documents
    "<lambda>": 1,  # its reward scores
    "_divergence": 1,
    "score_comparisons": 1,  # the reward model's accuracy
}


def test_every_program_is_compiled_for_a_reason(run):
    """Break it: make a function anew for every call of `jax.jit`."""
    large = {name: n for name, n in COMPILED.items() if name in PROGRAMS}
    small = sum(COMPILED.values()) - sum(large.values())
    too_often = {name: n for name, n in large.items() if n > PROGRAMS.get(name, 1)}
    assert not too_often and small < 25, (too_often, COMPILED)


def test_everything_is_written(run):
    folder, results = run
    for name in ("config.json", "results.json", "report.html", "samples.md"):
        assert (folder / name).stat().st_size > 100
    for name in ("answers.jsonl", "comparisons.jsonl", "held_out.jsonl", "labels.json"):
        assert (folder / "label" / name).stat().st_size > 100
    assert "two labelers agree" in (folder / "report.html").read_text().lower()
    for stage in ("pretrain", "sft", "reward", "ppo"):
        for name in ("config.json", "metrics.jsonl", "model.json", "tokenizer.json", "report.html"):
            assert (folder / stage / name).exists(), (stage, name)
    assert {row["step"] for row in read_openings(folder / "pretrain")} == {1, 2, 10, 20}
    for page in (folder / "report.html", folder / "pretrain" / "report.html"):
        assert "Language appears" in page.read_text()
    assert json.loads((folder / "results.json").read_text()) == results
    assert [m["name"] for m in results["models"]] == ["base", "SFT", "best-of-2", "PPO"]
    for model in results["models"]:
        mean, low, high = model["gold"]
        assert 0 <= low <= mean <= high <= 1
    sft_row = results["models"][1]
    assert sft_row["win_rate_vs_sft"] is None
    for model in results["models"]:
        if model is not sft_row:
            wins, ties, losses = (model[f"{name}_vs_sft"] for name in ("wins", "ties", "losses"))
            assert wins + ties + losses == pytest.approx(1)
            assert model["win_rate_vs_sft"][0] == pytest.approx(wins + ties / 2)
            difference = model["gold"][0] - sft_row["gold"][0]
            assert model["difference_vs_sft"][0] == pytest.approx(difference, abs=1e-9)
            parts = model["style_vs_sft"][0] + model["substance_vs_sft"][0]
            assert parts == pytest.approx(difference, abs=1e-9)
        assert model["right"][0] + model["unknown"] + model["wrong"] == pytest.approx(1)
        assert sum(of["prompts"] for of in model["by_kind"].values()) == 32
    assert set(results["reward_model"]["own_samples"]) == {"SFT", "PPO"}
    assert results["peak_memory_gb"] > 0.2 and results["machine"]["cores"] >= 1
    assert sft_row["kl_from_sft"] == pytest.approx(0, abs=1e-6)
    assert all(np.isfinite(m["kl_from_sft"]) for m in results["models"][1:])


def test_ppo_metrics_have_the_names_people_know(run):
    row = read_metrics(run[0] / "ppo")[0]
    assert {
        *(f"objective/{n}" for n in ("kl", "kl_coef", "entropy", "non_score_reward")),
        *(f"objective/{n}" for n in ("rlhf_reward", "scores")),
        *(f"policy/{n}" for n in ("approxkl_avg", "clipfrac_avg", "entropy_avg")),
        *(f"loss/{n}" for n in ("policy_avg", "value_avg")),
        *(f"val/{n}" for n in ("clipfrac_avg", "ratio", "ratio_var", "num_eos_tokens")),
        *("eps", "episode", "lr", "grad_norm"),
    } <= set(row)
    assert row["objective/kl"] == pytest.approx(0, abs=1e-5)


def test_the_reward_model_is_calibrated(run):
    """Invariant 8: mean 0 on demonstrations. Break `calibrate` in experiments/reward.py."""
    config = rlhf.presets["smoke"]()
    model, _, tokenizer = load_model(run[0] / "sft")
    stage = reward.Config(init_from=f"{run[0]}/sft", reward=config.reward)
    rows, longest = reward.calibration_rows(stage), trained_length(run[0] / "reward")
    batch, _ = without_empty(pad_comparisons(rows, tokenizer, longest, LeftOut()), "rows", longest)
    scores = jax.jit(functools.partial(score_comparisons, model))(
        load_params(run[0] / "reward"), batch
    )
    assert abs(float(np.mean(scores))) < 1e-4


def test_the_reward_model_learns_from_labels_of_its_own_models_answers(run):
    folder, results = run
    config = rlhf.presets["smoke"]()
    model = open_run(folder, "sft")
    rows = [json.loads(line) for line in (folder / "label" / "comparisons.jsonl").open()]
    numbers = json.loads((folder / "label" / "labels.json").read_text())
    assert len(rows) == numbers["train"] <= config.label.prompts
    sampling = Sampling(
        max_new_tokens=config.label.max_new_tokens,
        n=config.label.answers,
        seed=label.draw_seed(label.Config(label=config.label)),
    )
    found = model.complete([rows[0]["prompt"]], sampling)
    assert [one.text for one in found] == rows[0]["completions"]
    scores = [
        MICROWORLD.score(rows[0], text, stopped)
        for text, stopped in zip(rows[0]["completions"], rows[0]["stopped"], strict=True)
    ]
    assert rows[0]["ranks"] == ranks_of(scores, noticeable=config.label.noticeable)
    assert results["reward_model"]["pairs"] > 0
    longest = json.loads((folder / "reward" / "data.json").read_text())["longest"]
    assert longest % 8 == 0 and longest > config.label.max_new_tokens


def test_ready_made_comparisons_need_no_labels():
    options = ["--preset=smoke", "--data.comparisons=microworld"]
    ready = rlhf.stage_configs(command.parse(options, rlhf.presets, ""))
    assert list(ready) == ["pretrain", "sft", "reward", "ppo"] and not ready["reward"].labels_from
    own = rlhf.stage_configs(command.parse(["--preset=smoke"], rlhf.presets, ""))
    assert list(own) == ["pretrain", "sft", "label", "reward", "ppo"]


def test_people_rank_on_a_page_and_the_same_command_goes_on(run, tmp_path, capsys):
    """Once ranked, with more of them, and by a second labeler: no answer is drawn twice."""
    folder, mine = run[0], tmp_path / "run"
    shutil.copytree(folder, mine)
    options = ["--preset=smoke", "--mesh.data=1", f"--run-dir={mine}", "--label.labeler=people"]
    config = command.parse(options, rlhf.presets, "")
    with pytest.raises(UserError, match="reward was made from what label had come to before"):
        rlhf.main(config)
    shutil.rmtree(mine / "reward"), shutil.rmtree(mine / "ppo")
    answers = (mine / "label" / "answers.jsonl").read_bytes()
    assert rlhf.main(config) == {}
    assert "label.html in a browser" in capsys.readouterr().out
    rows = [json.loads(line) for line in answers.splitlines()]
    ranks = {str(n): [0, 1, 1, 2] for n in range(0, len(rows), 2)}
    entry = {"answers": answers_number(rows), "ranks": ranks}
    (mine / "label" / "ranks.json").write_text(json.dumps(entry))
    labels = rlhf.stage_configs(config)["label"]
    label.main(labels)
    numbers = json.loads((mine / "label" / "labels.json").read_text())
    assert numbers["train"] + numbers["held_out"] == len(ranks) == len(rows) - numbers["unlabeled"]
    assert numbers["agreement"] is None and label.is_finished(labels)
    assert "64 prompts not labeled" in capsys.readouterr().out

    other = tmp_path / "other.json"
    other.write_text(json.dumps(entry | {"ranks": {"0": [1, 0, 0, 2], "1": [0, 1, 2, 3]}}))
    both = dataclasses.replace(
        labels,
        label=dataclasses.replace(labels.label, labeler=f"{mine / 'label' / 'ranks.json'},{other}"),
    )
    assert not label.is_finished(both)
    label.main(both)
    numbers = json.loads((mine / "label" / "labels.json").read_text())
    assert numbers["agreement"] == {"ranked_twice": 5, "agree": 3 / 5}
    assert numbers["train"] + numbers["held_out"] == len(ranks) + 1
    assert (mine / "label" / "answers.jsonl").read_bytes() == answers


def test_stages_run_on_their_own(run, tmp_path):
    """Each stage takes the previous one's folder, and gives what `rlhf` gives."""
    folder, _ = run
    common = {"preset": "smoke", "mesh": ONE}
    again = sft.Config(
        **common, run_dir=f"{tmp_path}/sft", init_from=f"{folder}/pretrain", sft=sft.smoke().sft
    )
    sft.main(again)
    chex.assert_trees_all_equal(load_params(tmp_path / "sft"), load_params(folder / "sft"))


@pytest.mark.parametrize(
    ("module", "folders", "sentence"),
    [
        (sft, {"init_from": "reward"}, "reward holds a reward model, where a language model is"),
        (sft, {"init_from": "ppo"}, "ppo holds PPO's policy and value model, where a language"),
        (reward, {"init_from": "reward"}, "holds a reward model, where a language model is"),
        (ppo, {"init_from": "ppo", "reward_from": "reward"}, "holds PPO's policy and value model"),
        (ppo, {"init_from": "sft", "reward_from": "sft"}, "a language model, where a reward model"),
        (ppo, {"init_from": "sft", "reward_from": "ppo"}, "value model, where a reward model is"),
    ],
)
def test_a_folder_of_another_kind_is_named(run, tmp_path, module, folders, sentence):
    """Break it: call `load_model_files` without the shapes."""
    folders = {field: str(run[0] / name) for field, name in folders.items()}
    config = dataclasses.replace(module.smoke(), run_dir=str(tmp_path / "run"), mesh=ONE, **folders)
    with pytest.raises(UserError, match=sentence):
        module.main(config)
    assert not (tmp_path / "run").exists()


def test_files_that_belong_to_another_model_are_named(run, tmp_path):
    folder = tmp_path / "sft"
    shutil.copytree(run[0] / "sft", folder)
    fields = json.loads((folder / "model.json").read_text())
    for changed, sentence in (
        ({"vocab_size": 400}, "512 tokens, .* 400"),
        ({"width": 64}, "shape"),
    ):
        (folder / "model.json").write_text(json.dumps(fields | changed))
        with pytest.raises(UserError, match=sentence):
            load_model_files(folder, param_shapes)
    config = dataclasses.replace(pretrain.tiny(), run_dir=str(folder), mesh=ONE)
    with pytest.raises(UserError, match="512 tokens, not 1024"):
        pretrain.tokenizer_of(config)


def test_ppo_with_a_rule_instead_of_a_model(run, tmp_path):
    """A host reward: any Python function of the tokens."""
    folder, _ = run
    config = ppo.Config(
        preset="smoke",
        mesh=ONE,
        run_dir=f"{tmp_path}/ppo",
        init_from=f"{folder}/sft",
        reward_from=f"{folder}/reward",
        ppo=ppo.smoke().ppo,
    )
    ppo.main(config, reward=lambda rollout: -np.asarray(rollout.mask_BC).sum(1))
    rows = read_metrics(tmp_path / "ppo")
    assert len(rows) == config.ppo.train.steps


@pytest.mark.slow
def test_the_readme_example_swaps_the_loss(run, tmp_path):
    folder, _ = run
    smoke = confidence_penalty.presets["smoke"]()
    rows = {}
    for beta in (0.0, 1.0):
        config = confidence_penalty.Config(
            preset="smoke",
            mesh=ONE,
            run_dir=f"{tmp_path}/{beta}",
            init_from=f"{folder}/pretrain",
            beta=beta,
            sft=smoke.sft,
        )
        confidence_penalty.main(config)
        rows[beta] = read_metrics(tmp_path / str(beta))[0]
    assert rows[1.0]["objective"] < rows[0.0]["objective"]
    # The loss stays the likelihood's, whatever is minimised, and so does the perplexity.
    assert rows[1.0]["loss"] == pytest.approx(rows[0.0]["loss"], rel=1e-5)
    assert rows[0.0]["objective"] == pytest.approx(rows[0.0]["loss"], rel=1e-6)
    assert rows[1.0]["perplexity"] == pytest.approx(math.exp(rows[1.0]["loss"]))


@pytest.mark.slow
def test_real_files_take_the_same_path(shared_data, tmp_path):
    """Tiny Shakespeare, Alpaca and hh-rlhf through every stage; no gold score, so the reward's."""
    results = rlhf.main(
        command.parse(
            [
                "--preset=smoke",
                f"--run-dir={tmp_path}",
                "--mesh.data=1",
                f"--data.text={shared_data}/tinyshakespeare/input.txt",
                f"--data.demonstrations={shared_data}/alpaca/alpaca_first10k.jsonl.gz",
                f"--data.comparisons={shared_data}/hh-rlhf/split_train.jsonl.gz",
                f"--data.test-comparisons={shared_data}/hh-rlhf/split_eval.jsonl.gz",
            ],
            rlhf.presets,
            "",
        )
    )
    counted = json.loads((tmp_path / "reward" / "data.json").read_text())["left_out"]
    (missing,) = (
        entry["count"]
        for entry in counted
        if entry["what"].startswith("held-out comparisons left out")
    )
    assert results["reward_model"]["pairs"] + missing > 900
    assert "What was left out" in (tmp_path / "report.html").read_text()
    assert all(model["gold"] is None for model in results["models"])


def test_pretraining_lowers_the_loss(run):
    rows = read_metrics(run[0] / "pretrain")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    assert pretrain.smoke().pretrain.train.steps == rows[-1]["step"]
    assert reward.smoke().reward.train.steps == read_metrics(run[0] / "reward")[-1]["step"]
