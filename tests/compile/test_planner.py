"""The planner compiles every stage of a model of a billion parameters for TPUs and GPUs.

The slow ones (`pytest -m slow tests/compile`) are the largest; `docs/plans/` keeps their output.
"""

import itertools
import json

import jax
import pytest

from gpt_jax.errors import UserError
from gpt_jax.models.presets import parameter_count
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.plan import targets
from tools import plan


def billion(stage, name, *more):
    """Options of a plan for GPT-3 1.3B on short rows."""
    return [
        "--model", "gpt3-1.3b", "--slice", name, "--stage", stage, "--length", "512",
        "--new-tokens", "128", "--epochs", "1", *more,
    ]  # fmt: skip


STAGES = ("pretrain", "sft", "reward", "ppo")
PLANS = [
    # A v6e takes a v5e's path through the planner, and its compiler the longest.
    pytest.param(
        stage, name, marks=[pytest.mark.slow] * (name == "v6e:2x4" and stage != "pretrain")
    )
    for stage, name in itertools.product(STAGES, ("v5e:4x4", "v6e:2x4", "h100:8"))
]


@pytest.mark.parametrize("stage, name", PLANS)
def test_a_billion_parameters_plan(stage, name, tmp_path):
    config = plan.parse(billion(stage, name, "--run-dir", str(tmp_path)))
    result = plan.main(config)
    assert json.loads((tmp_path / "plan.json").read_text())["step"] == result["step"]
    assert "<table>" in (tmp_path / "plan.html").read_text()

    devices, step = result["devices"], result["step"]
    models = {"pretrain": 1, "sft": 1, "reward": 1, "ppo": 4}[stage]  # policy, value, two frozen
    trained = 2 if stage == "ppo" else 1
    state = 4 * parameter_count(config.model) * (models + 2 * trained) / devices
    first = result["programs"][0]
    assert first["argument_bytes"] == pytest.approx(state, rel=0.02)
    assert first["hbm_bytes"] >= first["argument_bytes"] + first["temporary_bytes"]
    # Blocks are recomputed: 8 N instead of 6 N, and never less than the formula.
    asked = step["mfu"] * step["seconds"] * result["chip"]["flops"]
    compiled = sum(program["runs"] * program["flops"] for program in result["programs"])
    assert 1.0 <= compiled / asked < 1.5
    for program in result["programs"]:
        assert program["traced_flops"] == pytest.approx(program["flops"], rel=0.05)
    assert 0 < step["mfu_in_turn"] < step["mfu"] <= 1


@pytest.mark.parametrize("name", ["v5e:2x2", "h100:8"])
def test_memory_is_what_the_compiler_says(name):
    """The plan adds up the parts; the compiler also gives the peak of what is alive."""
    devices = targets.devices(name)
    options = ["--model", "gpt2", "--model.layers", "2", "--slice", name, "--length", "256"]
    config = plan.settle(plan.parse(options), len(devices))
    (program,) = plan.plan_one(config, devices)["programs"]

    mesh = make_mesh(config.mesh, devices)
    (planned,) = config.experiment.plan(config.work, mesh).programs
    with jax.set_mesh(mesh):
        memory = planned.function.lower(*planned.args).compile().memory_analysis()
    peak = memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes
    assert peak <= program["hbm_bytes"] < 1.05 * peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name", "stage", "mesh"),
    [
        ("gpt3-175b", "v5p:8x8x8", "pretrain", "fsdp=64,tensor=8"),
        ("gpt3-175b", "v5p:8x8x8", "ppo", "fsdp=64,tensor=8"),
        ("llama3-405b", "v5p:16x16x24", "pretrain", "data=3,fsdp=256,tensor=8"),
    ],
)
def test_the_largest_fit_within_nine_tenths_of_memory(model, name, stage, mesh, tmp_path):
    options = ["--model", model, "--slice", name, "--stage", stage, "--mesh", mesh]
    result = plan.main(plan.parse([*options, "--run-dir", str(tmp_path)]))
    assert result["hbm_fraction"] < 0.9


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mesh", "fsdp=3"], "8 devices, but data=2 x fsdp=3 .* --mesh fsdp=2,tensor=1 would do"),
        (["--rows", "20"], "20 rows do not divide over data x fsdp x accumulate = 8; --rows 16"),
        (["--stage", "ppo", "--length", "64", "--new-tokens", "64"], "leave no prompt"),
        (
            ["--mesh", "tensor=8", "--model.mlp-width", "3070"],
            "tensor = 2 would do, .* 3072",
        ),
    ],
)
def test_the_impossible_is_one_sentence_with_a_mend(options, sentence):
    config = plan.parse(["--model", "gpt3_125m", "--slice", "h100:8", *options])
    with pytest.raises(UserError, match=sentence):
        plan.main(config)


def test_what_does_not_fit_says_what_would():
    config = plan.parse(["--model", "gpt3-13b", "--slice", "h100:1"])
    with pytest.raises(UserError, match="does not fit.* largest argument is .*mlp.*larger slice"):
        plan.main(config)


def test_a_search_splits_long_sequences_over_context():
    """One row of 128k tokens cannot be split over data or fsdp."""
    options = ["--model", "llama3-8b", "--slice", "v5p:2x2x2", "--length", "131072", "--rows", "1"]
    ranked = plan.candidates(plan.parse(options), 8)
    assert ranked[0].mesh.context > 1
    assert all(c.mesh.data == c.mesh.fsdp == 1 for c in ranked)
    odd = plan.parse(["--model", "gpt2", "--slice", "v5p:2x2x2", "--length", "1023", "--rows", "8"])
    assert {c.mesh.context for c in plan.candidates(odd, 8)} == {1}


def test_models_are_found_by_either_spelling():
    assert plan.find_preset("GPT3-175b") == plan.find_preset("gpt3_175b")
    with pytest.raises(UserError, match="nearest are .*llama3_8b"):
        plan.find_preset("llama3-9b")
    config = plan.parse(["--model=gpt3-175b", "--mesh=fsdp=64,tensor=8", "--model.layers", "2"])
    assert (config.mesh.fsdp, config.mesh.tensor, config.model.layers) == (64, 8, 2)
    assert (config.model.width, config.model.dtype, config.model.remat) == (
        12288,
        "bfloat16",
        "block",
    )
