"""What the reproductions are composed of: arms of equal cost, one change at a time, and what they
write; nothing is trained here."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import algorithms, judge_generator, methods, overoptimization, ppo_details, sizes
from gpt_jax.errors import UserError
from gpt_jax.evaluate import arms
from gpt_jax.evaluate.judging import judging
from gpt_jax.report.judging import publish_judging
from gpt_jax.report.sizes import publish_sizes
from gpt_jax.seeds import interval
from gpt_jax.train import command
from gpt_jax.train.record import compare_config, differences, record_config

JUDGES = ("reward model", "likelihood")
MEASURED = ("gold", "reward", "right", "kl", "entropy", "length")


@pytest.fixture
def finished(tmp_path):
    """A run folder as far as the configurations read it: its labels."""
    rows = [
        {"prompt": f"q {n}", "completions": list("abcd"), "ranks": [0, 1, 2, 3]} for n in range(9)
    ]
    (tmp_path / "run" / "label").mkdir(parents=True)
    for name in ("comparisons", "held_out"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "run" / "label" / f"{name}.jsonl").write_text(text)
    return tmp_path / "run"


def config_of(module, folder, run, *options):
    given = ["--preset=tiny", f"--run={run}", f"--run-dir={folder}/here", *options]
    return command.parse(given, module.presets, "")


@pytest.fixture
def untrained(monkeypatch):
    """Stages that write what was measured, as if they had been run; which are known by name."""
    ran = []

    def run_stage(name, config, prepare):
        ran.append((name, config))
        arm = arms.Arm("", name, config, prepare)
        for place, folder in enumerate(arm.folders):
            folder.mkdir(parents=True)
            value = 0.1 * len(ran) + 0.01 * place
            rows = [{"step": s, "objective/length": 10.0} for s in (1, 2)]
            rows += [{"step": s, **{f"eval/{key}": s * value for key in MEASURED}} for s in (1, 2)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    found = dict.fromkeys(MEASURED, 0.5)
    yardstick = SimpleNamespace(of=lambda params: found, finetuned=SimpleNamespace(params=None))
    yardstick.best_of = lambda most, counts: {n: found | {"kl": np.log(n)} for n in counts}
    yardstick.with_seed = lambda seed: yardstick
    monkeypatch.setattr(arms, "run_stage", run_stage)
    monkeypatch.setattr(arms, "look_at", lambda *_: None)
    monkeypatch.setattr(arms, "measured", lambda prepare, yardstick: lambda *_: None)
    for module in (algorithms, ppo_details):
        monkeypatch.setattr(module, "open_yardstick", lambda *_: yardstick)
    return ran


def test_every_method_spends_the_budget(tmp_path, finished):
    config = config_of(algorithms, tmp_path, finished)
    for value in (0, 1, 2):
        for name, method in methods.METHODS.items():
            one = config.of(name, method.values[value])
            steps, each = getattr(one, name).train.steps, methods.spent(name, one)
            assert abs(steps * each - config.budget) <= each / 2, name
    ppo, grpo = (methods.spent(name, config.of(name, 0.1)) for name in ("ppo", "grpo"))
    assert (ppo, grpo) == (48 * (1 + 3 * 2 * 2), 48 * (1 + 3 * 2))
    # Of a group of 8 one completion is learned from, twice.
    assert methods.spent("rejection", config.of("rejection", 8)) == 48 * (1 + 3 * 2 / 8)
    # A comparison of four has no sampling, and is read once.
    assert methods.spent("dpo", config.of("dpo", 0.5)) == 48 * 3


@pytest.mark.slow
def test_the_frontier_of_all_methods(tmp_path, finished, untrained, monkeypatch):
    words = [SimpleNamespace(weights_BKT=np.ones((2, 4, 3)))] * 99
    stage = SimpleNamespace(batch_at=words.__getitem__)
    monkeypatch.setattr(algorithms, "stage_of", lambda name, config, mesh: stage)
    config = config_of(algorithms, tmp_path, finished, "--values=2", "--seeds=2", "--mesh.data=1")
    found = algorithms.main(config)
    assert [name for name, _ in untrained] == list(methods.METHODS) * 2
    points = {(point["method"], point["setting"]): point for point in found["points"]}
    first = points["PPO", "kl_coef 0.3"]
    np.testing.assert_allclose(first["values"]["gold"], interval([0.2, 0.22]))
    assert first["tokens"] == {"sampled": 48 * 20.0, "trained": 48 * 20.0 * 4}
    assert points["DPO", "beta 0.5"]["tokens"] == {
        "sampled": 0.0,
        "trained": round(config.budget / 144) * 24.0,
    }
    assert points["best-of-n", "n 4"]["values"]["kl"][0] == pytest.approx(np.log(4))
    assert any(said.startswith("gold: GRPO is above PPO") for said in found["said"])
    folder = tmp_path / "here"
    assert json.loads((folder / "results.json").read_text())["said"] == found["said"]
    assert "| GRPO kl_coef 0.04 |" in (folder / "results.md").read_text()
    assert (folder / "figure.png").stat().st_size > 10_000


def test_each_detail_changes_one_thing(tmp_path, finished):
    config = config_of(ppo_details, tmp_path, finished)
    default = dataclasses.asdict(config.of(ppo_details.DEFAULT))
    for name, detail in ppo_details.DETAILS.items():
        changed = differences(default, dataclasses.asdict(config.of(name)))
        assert list(changed) == [f"ppo.{key}" for key in detail.settings]
        assert len(changed) + (detail.scores is not None) == (name != ppo_details.DEFAULT)
    folders = {config.of(name).run_dir for name in ppo_details.DETAILS}
    assert len(folders) == len(ppo_details.DETAILS)


def test_changes_of_the_scores():
    score = lambda params, rollout: params * rollout  # noqa: E731
    for name, wanted in (
        ("scores of whole numbers", [0, -1, 1]),
        ("scores not centred (+5)", None),
    ):
        change = ppo_details.DETAILS[name].scores
        found = ppo_details.changed(change, score)(np.float32(0.5), np.float32([1.4, -3, 3.9]))
        np.testing.assert_allclose(found, wanted or [5.7, 3.5, 6.95])


def test_what_the_details_cost(tmp_path, finished, untrained):
    options = ("--details", "no KL penalty", "--seeds=3", "--mesh.data=1")
    found = ppo_details.main(config_of(ppo_details, tmp_path, finished, *options))
    assert [config.ppo.kl_coef for _, config in untrained] == [0.3, 0.0]
    # Twice as much with every seed: the interval of the pairs is narrower than those of the two.
    np.testing.assert_allclose(found["differences"]["no KL penalty"]["gold"], [0.2] * 3)
    assert "gold: no KL penalty is above the default" in found["said"][0]
    assert (tmp_path / "here" / "figure.png").is_file()


def test_what_cannot_be_compared(tmp_path, finished):
    with pytest.raises(UserError, match="there is no detail 'x'; give some of 'default'"):
        config_of(ppo_details, tmp_path, finished, "--details", "x")
    with pytest.raises(UserError, match="at least 1"):
        config_of(algorithms, tmp_path, finished, "--best-of", "0")
    with pytest.raises(UserError, match="three n or more"):
        config_of(overoptimization, tmp_path, finished, "--best-of", "2", "4")
    with pytest.raises(UserError, match="9 rows; give less --labels"):
        overoptimization.write_parts(config_of(overoptimization, tmp_path, finished))


def test_parts_of_the_labels_hold_the_smaller_ones(tmp_path, finished):
    config = config_of(overoptimization, tmp_path, finished, "--labels", "2", "5")
    overoptimization.write_parts(config)
    small, large = (Path(config.part(n, "")).read_text().splitlines() for n in (2, 5))
    assert len(small) == 2 and len(large) == 5 and set(small) < set(large)


def test_sizes(tmp_path):
    config = command.parse([f"--models={tmp_path}"], judge_generator.presets, "")
    one = sizes.config_of(config, config.models, "96x4")
    assert one.pretrain.model == config.pretrain.model, "the largest is the preset's own"
    assert one.run_dir == f"{tmp_path}/seed0/96x4"
    small = sizes.resized(config.pretrain.model, "48x2")
    assert (small.width, small.layers, small.heads, small.mlp_width) == (48, 2, 1, 128)
    for bad, sentence in (("7", "give WIDTHxLAYERS"), ("30x2", "8 does not divide")):
        with pytest.raises(UserError, match=sentence):
            command.parse(["--sizes", bad], judge_generator.presets, "")
    with pytest.raises(UserError, match="give each once"):
        command.parse(["--sizes", "96x4", "96x4"], judge_generator.presets, "")


def test_the_best_of_the_labels_are_demonstrations():
    turn = [{"role": "user", "content": "q"}]
    row = {"prompt": turn, "completions": ["a", "b"], "ranks": [1, 0], "stopped": [True, True]}
    found = judge_generator.best_of_row(row)
    assert found["messages"] == [*turn, {"role": "assistant", "content": "b"}]
    assert judge_generator.best_of_row(row | {"stopped": [True, False]}) is None


def test_seeds_together():
    trees = [{"a": [v, 0, 1], "n": 2, "x": v, "b": {1: None}} for v in (1.0, 3.0)]
    wanted = interval([1.0, 3.0])
    assert judge_generator.over(trees) == {"a": wanted, "n": 2.0, "x": wanted, "b": {1: None}}


def test_a_size_without_a_pair_to_judge_is_published_too(tmp_path):
    one = judging(np.zeros((2, 3), bool), dict.fromkeys(JUDGES, np.zeros((2, 3))), (1, 2), None)
    one |= {"taught": None, "parameters": 1000}
    two = judging(np.eye(2, 3, dtype=bool), dict.fromkeys(JUDGES, np.eye(2, 3)), (1, 2), None)
    two |= {"taught": [0.9, 0.8, 1.0], "parameters": 5000}
    results = {"command": "python -m it", "sizes": {"8x1": one, "16x1": two}}
    publish_judging(tmp_path, results)
    said = json.loads((tmp_path / "results.json").read_text())["said"]
    assert "8x1: there is no pair" in said[0] and "more often than it" in said[1]
    assert "| 16x1, reward model | 33%" in (tmp_path / "results.md").read_text()


def test_sizes_after_each_stage_are_published(tmp_path):
    def models(win_rate):
        named = {
            name: {"parameters": 10} for name in ("base", "SFT", "best-of-4", "PPO", "PPO-ptx")
        }
        for place, one in enumerate(named.values()):
            at = win_rate + 0.1 * place
            one |= {
                key: [at, at - 0.01, at + 0.01] for key in ("win_rate", "gold", "right", "distinct")
            }
            if place != 2:
                one |= {"text_loss": 2.0 + at, "entropy": 1.0}
        return named

    results = {"command": "python -m it", "sizes": {"8x1": models(0.1), "16x1": models(0.2)}}
    publish_sizes(tmp_path, results)
    said = json.loads((tmp_path / "results.json").read_text())["said"]
    assert "8x1: SFT wins more than base (20% and 10%)" in said
    assert "8x1: from SFT on the loss on text changes by +0.200 with PPO and by +0.300" in said[4]
    assert (tmp_path / "figure.png").is_file()


@pytest.mark.parametrize("module", [algorithms, ppo_details, overoptimization, judge_generator])
def test_the_same_command_goes_on(module, tmp_path):
    """Settings of several values are written as lists, and are the same settings."""
    config = command.parse(["--preset=smoke"], module.presets, "")
    record_config(tmp_path, "it", config)
    assert not compare_config(tmp_path, "it", config)
