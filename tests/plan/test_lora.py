"""The planner's view of adapters: one backbone, and no optimizer state for it."""

import dataclasses

import jax
import pytest

from gpt_jax.errors import UserError
from gpt_jax.models.lora import LoraConfig
from gpt_jax.models.presets import parameter_count
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.plan.compiled import shard_bytes
from tests import tiny
from tools import plan

MODEL = dataclasses.replace(tiny.MODEL, width=64, vocab_size=512)
WEIGHTS = 4 * parameter_count(MODEL)
ADAPTERS = 4 * 2 * 4 * (4 * 2 * 64 + 2 * 5 * 64)  # layers, rank, q k v out, up and down


def arguments(config, index=0):
    """Bytes of a program's arguments."""
    settled = plan.settle(config, 1)
    mesh = make_mesh(settled.mesh, jax.devices()[:1])
    step = settled.experiment.plan(settled.work, mesh)
    return sum(shard_bytes(step.programs[index].args).values())


def config_of(stage, **changes):
    return plan.Config(
        model=MODEL,
        slice="h100:1",
        stage=stage,
        length=48,
        new_tokens=16,
        **changes,
    )


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_the_backbone_is_there_once(stage):
    """Two learned sets of adapters with moments for PPO, and two frozen. Break it: plan the
    reference as a copy of the weights."""
    learned, frozen = (2, 2) if stage == "ppo" else (1, 0)
    expected = WEIGHTS + (3 * learned + frozen) * ADAPTERS
    found = arguments(config_of(stage, lora=LoraConfig(rank=4)))
    assert found == pytest.approx(expected, rel=0.02), "and a batch"
    smaller = arguments(config_of(stage, lora=LoraConfig(rank=4), frozen_dtype="int8"))
    assert smaller < found - 0.65 * WEIGHTS
    assert arguments(config_of(stage)) > found + 1.5 * WEIGHTS


def test_a_small_reference_without_adapters():
    whole, small = (arguments(config_of("ppo", frozen_dtype=d)) for d in (None, "bfloat16"))
    assert small == pytest.approx(whole - 2 * WEIGHTS / 2, rel=0.03)


def test_what_has_no_effect_is_said():
    with pytest.raises(UserError, match="pretraining learns all weights"):
        config_of("pretrain", lora=LoraConfig(rank=4))
    with pytest.raises(UserError, match="sft freezes nothing; add --lora.rank"):
        config_of("sft", frozen_dtype="int8")
    assert config_of("ppo", lora=LoraConfig(rank=4), frozen_dtype="int8").cost.bytes == 1.125
    assert config_of("ppo").cost.bytes == 40
