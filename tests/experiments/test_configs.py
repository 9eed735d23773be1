"""Invariant 11: every preset of every experiment builds, lowers and shape-checks, without running.

Break it: give a preset a width that its heads do not divide, or a batch that cannot accumulate.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    distill,
    dpo,
    grpo,
    kto,
    label,
    online_dpo,
    ppo,
    pretrain,
    reinforce,
    rejection,
    reward,
    reward_weighted,
    rlhf,
    rloo,
    sentiment,
    sft,
    verifiable,
)
from gpt_jax.data.config import DataConfig
from gpt_jax.rl import scoring
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import checkpoint, command, launch
from gpt_jax.train.checkpoint import save_model_files

STAGES = {"pretrain": pretrain, "sft": sft, "reward": reward, "ppo": ppo}
# Stages that are no part of the recipe; they start from an SFT model and score with a reward model.
ONLINE = {
    "reward_weighted": reward_weighted,
    "grpo": grpo,
    "rloo": rloo,
    "reinforce": reinforce,
    "rejection": rejection,
    "online_dpo": online_dpo,
}


# Those of the recipe that pretrain a model; test_smollm2.py traces the other one.
FROM_NOTHING = [name for name, preset in rlhf.presets.items() if preset().init_from is None]


class Lowered(Exception):
    """Stops a stage where training would begin."""


@pytest.fixture
def without_training(monkeypatch):
    """Ends a stage after its step is traced on the real first batch and on shapes of the state."""

    def only_trace(stage, seed, mesh):
        origin, frozen = stage.shapes
        batch = jax.tree.map(jnp.asarray, stage.batch_at(0))
        state = jax.eval_shape(stage.functions.init, np.uint32(seed), *origin)
        after, metrics = launch.step_shapes(stage.functions.step, state, batch, frozen)
        same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, state, after)
        assert all(jax.tree.leaves(same)), "a step must keep the shapes of its state"
        assert all(total.shape == () for total, _ in metrics.values())
        raise Lowered

    monkeypatch.setattr(launch, "look_at", only_trace)
    # The folders of earlier stages hold no parameters.
    monkeypatch.setattr(checkpoint, "_compare_shapes", lambda folder, wanted: None)
    monkeypatch.setattr(scoring, "param_shapes_in", lambda folder: {"head/likelihood": ()})


@pytest.mark.parametrize("preset", FROM_NOTHING)
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


OFFLINE = [
    *((dpo, preset, []) for preset in dpo.presets),
    *((dpo, "tiny", [f"--dpo.loss={name}"]) for name in dpo.LOSSES),
    *((kto, preset, []) for preset in kto.presets),
    *((distill, preset, []) for preset in distill.presets),
    *((distill, preset, ["--distill.on-policy"]) for preset in distill.presets),
]


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """Options that name a little of the microworld: all of it takes long to lay out."""
    folder, options = tmp_path_factory.mktemp("little"), []
    for kind in ("comparisons", "demonstrations"):
        for name, split in ((kind, "train"), (f"test_{kind}", "test")):
            path = folder / f"{name}.jsonl"
            rows = DataConfig().read(kind, split)[:300]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            options.append(f"--data.{name}={path}")
    return options


@pytest.mark.parametrize(
    ("stage", "preset", "options"), OFFLINE, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_every_preset_without_a_reward_traces(
    stage, preset, options, little, without_training, tmp_path
):
    config = rlhf.presets[preset]()
    texts = (row["text"] for row in config.data.read("text", "train")[:500])
    save_model_files(tmp_path, config.pretrain.model, Tokenizer.train(texts, 512))
    teacher = [f"--teacher-from={tmp_path}"] if stage is distill else []
    arguments = [f"--preset={preset}", f"--init-from={tmp_path}", f"--run-dir={tmp_path}/run"]
    parsed = command.parse([*arguments, *teacher, *little, *options], stage.presets, "")
    with pytest.raises(Lowered):
        stage.main(parsed)


@pytest.mark.parametrize("preset", FROM_NOTHING)
@pytest.mark.parametrize("name", list(ONLINE))
def test_every_preset_of_the_online_stages_traces(name, preset, without_training, tmp_path):
    model, stage = rlhf.presets[preset]().pretrain.model, ONLINE[name]
    config = stage.presets[preset]()
    texts = (row["text"] for row in config.data.read("text", "train")[:500])
    save_model_files(tmp_path, model, Tokenizer.train(texts, 512))
    spec = f"0.5*model:{tmp_path} + min(model:{tmp_path}, rule:brevity) - task:microworld"
    inputs = {"run_dir": str(tmp_path / "run"), "init_from": str(tmp_path), "reward": spec}
    with pytest.raises(Lowered):
        stage.main(dataclasses.replace(config, **inputs))


@pytest.mark.parametrize(
    "experiment",
    [
        *(pretrain, sft, label, reward, ppo, rlhf, dpo, kto, distill, verifiable, sentiment),
        *ONLINE.values(),
    ],
)
def test_presets_parse_and_agree_with_their_names(experiment):
    for name in experiment.presets:
        assert command.parse([f"--preset={name}"], experiment.presets, "").preset == name
        changed = command.parse(["--preset", name, "--seed", "7"], experiment.presets, "")
        assert changed.seed == 7
