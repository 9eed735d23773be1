"""Invariant 11: every preset of every experiment builds, lowers and shape-checks, without running.

Break it: give a preset a width that its heads do not divide, or a batch that cannot accumulate.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    grpo,
    label,
    online_dpo,
    ppo,
    pretrain,
    reinforce,
    rejection,
    reward,
    rlhf,
    rloo,
    sft,
    verifiable,
)
from gpt_jax.rl import scoring
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import checkpoint, command, launch
from gpt_jax.train.checkpoint import save_model_files

ONLINE = [grpo, rloo, reinforce, rejection, online_dpo]
STAGES = {"pretrain": pretrain, "sft": sft, "reward": reward, "ppo": ppo}


class Lowered(Exception):
    """Stops a stage where training would begin."""


@pytest.fixture
def without_training(monkeypatch):
    """Ends a stage after its step is traced on the real first batch and on shapes of the state."""

    def only_trace(stage, seed, mesh):
        origin, frozen = stage.shapes
        batch = jax.tree.map(jnp.asarray, stage.batch_at(0))
        state = jax.eval_shape(stage.functions.init, np.uint32(seed), *origin)
        after, metrics = jax.eval_shape(stage.functions.step, state, batch, frozen)
        same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, state, after)
        assert all(jax.tree.leaves(same)), "a step must keep the shapes of its state"
        assert all(total.shape == () for total, _ in metrics.values())
        raise Lowered

    monkeypatch.setattr(launch, "look_at", only_trace)
    # The folders of earlier stages hold no parameters.
    monkeypatch.setattr(checkpoint, "_compare_shapes", lambda folder, wanted: None)
    monkeypatch.setattr(scoring, "param_shapes_in", lambda folder: {"head/likelihood": ()})


@pytest.mark.parametrize("preset", list(rlhf.presets))
@pytest.mark.parametrize("name", list(STAGES))
def test_every_preset_traces(name, preset, without_training, tmp_path):
    config = rlhf.presets[preset]()
    model = config.pretrain.model
    common = command.shared(config, run_dir=str(tmp_path / "run"))
    inputs = {} if name == "pretrain" else {"init_from": str(tmp_path)}
    if name == "ppo":
        inputs["reward_from"] = str(tmp_path)
    if name != "pretrain":
        texts = (row["text"] for row in config.data.read("text", "train")[:500])
        save_model_files(tmp_path, model, Tokenizer.train(texts, 512))
    stage = STAGES[name]
    with pytest.raises(Lowered):
        stage.main(stage.Config(**common, **inputs, **{name: getattr(config, name)}))


@pytest.mark.parametrize("preset", list(rlhf.presets))
@pytest.mark.parametrize("method", ONLINE, ids=lambda method: method.__name__)
def test_every_preset_of_an_online_method_traces(method, preset, without_training, tmp_path):
    """From a finetuned model and a reward model of the preset's size."""
    config = method.presets[preset]()
    texts = (row["text"] for row in config.data.read("text", "train")[:500])
    model = rlhf.presets[preset]().pretrain.model
    save_model_files(tmp_path, model, Tokenizer.train(texts, 512))
    places = {"init_from": str(tmp_path), "reward_from": str(tmp_path)}
    with pytest.raises(Lowered):
        method.main(dataclasses.replace(config, run_dir=str(tmp_path / "run"), **places))


@pytest.mark.parametrize(
    "experiment", [pretrain, sft, label, reward, ppo, rlhf, verifiable, *ONLINE]
)
def test_presets_parse_and_agree_with_their_names(experiment):
    for name in experiment.presets:
        assert command.parse([f"--preset={name}"], experiment.presets, "").preset == name
        changed = command.parse(["--preset", name, "--seed", "7"], experiment.presets, "")
        assert changed.seed == 7
