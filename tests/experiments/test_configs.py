"""Invariant 11: every preset of every experiment builds, lowers and shape-checks, without running.

Break it: give a preset a width that its heads do not divide, or a batch that cannot accumulate.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    algorithms,
    distill,
    dpo,
    finetune_task,
    grpo,
    instructgpt,
    judge_generator,
    kto,
    label,
    online_dpo,
    overoptimization,
    ppo,
    ppo_details,
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
from experiments.prompting import ladder
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


@functools.cache
def tokenizer():
    return Tokenizer.train((row["text"] for row in DataConfig().read("text", "train")[:500]), 512)


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


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """A little of the microworld, by the names of `DataConfig`: all of it takes long to lay out."""
    folder, paths = tmp_path_factory.mktemp("little"), {}
    for kind in ("text", "comparisons", "demonstrations"):
        for name, split in ((kind, "train"), (f"test_{kind}", "test")):
            path = folder / f"{name}.jsonl"
            rows = DataConfig().read(kind, split)[:300]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            paths[name] = str(path)
    return paths


@pytest.mark.parametrize("preset", FROM_NOTHING)
@pytest.mark.parametrize("name", list(STAGES))
def test_every_preset_traces(name, preset, little, without_training, tmp_path):
    config = rlhf.presets[preset]()
    model = config.pretrain.model
    common = command.shared(config, run_dir=str(tmp_path / "run"))
    common["data"] = dataclasses.replace(config.data, **little)
    inputs = {} if name == "pretrain" else {"init_from": str(tmp_path)}
    if name == "ppo":
        inputs["reward_from"] = str(tmp_path)
    if name != "pretrain":
        save_model_files(tmp_path, model, tokenizer())
    stage = STAGES[name]
    with pytest.raises(Lowered):
        stage.main(stage.Config(**common, **inputs, **{name: getattr(config, name)}))


OFFLINE = [
    *((dpo, preset, []) for preset in dpo.presets),
    *((dpo, "tiny", [f"--dpo.loss={name}"]) for name in dpo.LOSSES),
    *((kto, preset, []) for preset in kto.presets),
    *((finetune_task, preset, []) for preset in finetune_task.presets),
    *((distill, preset, []) for preset in distill.presets),
    *((distill, preset, ["--distill.on-policy"]) for preset in distill.presets),
]


@pytest.mark.parametrize(
    ("stage", "preset", "options"), OFFLINE, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_every_preset_without_a_reward_traces(
    stage, preset, options, little, without_training, tmp_path
):
    config = rlhf.presets[preset]()
    save_model_files(tmp_path, config.pretrain.model, tokenizer())
    teacher = [f"--teacher-from={tmp_path}"] if stage is distill else []
    data = [f"--data.{name}={path}" for name, path in little.items() if "text" not in name]
    arguments = [f"--preset={preset}", f"--init-from={tmp_path}", f"--run-dir={tmp_path}/run"]
    parsed = command.parse([*arguments, *teacher, *data, *options], stage.presets, "")
    with pytest.raises(Lowered):
        stage.main(parsed)


@pytest.mark.parametrize("preset", FROM_NOTHING)
@pytest.mark.parametrize("name", list(ONLINE))
def test_every_preset_of_the_online_stages_traces(name, preset, without_training, tmp_path):
    model, stage = rlhf.presets[preset]().pretrain.model, ONLINE[name]
    config = stage.presets[preset]()
    save_model_files(tmp_path, model, tokenizer())
    spec = f"0.5*model:{tmp_path} + min(model:{tmp_path}, rule:brevity) - task:microworld"
    inputs = {"run_dir": str(tmp_path / "run"), "init_from": str(tmp_path), "reward": spec}
    with pytest.raises(Lowered):
        stage.main(dataclasses.replace(config, **inputs))


@pytest.mark.parametrize("course", ladder.COURSES)
@pytest.mark.parametrize("preset", list(ladder.presets))
def test_every_preset_of_the_ladder_traces(preset, course, without_training, tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "look_at", launch.look_at)
    monkeypatch.setattr(ladder.skill_rungs, "check_machine", lambda: None)
    config = dataclasses.replace(ladder.presets[preset](), course=course)
    # All of the lessons take long to make.
    first, second = (dataclasses.replace(of, lessons=1000) for of in (config.ladder, config.skills))
    config = dataclasses.replace(config, ladder=first, skills=second, run_dir=str(tmp_path / "run"))
    with pytest.raises(Lowered):
        ladder.main(config)


@pytest.mark.parametrize(
    "experiment",
    [
        *(pretrain, sft, label, reward, ppo, rlhf, dpo, kto, distill, verifiable),
        *(algorithms, ppo_details, judge_generator, overoptimization, instructgpt),
        *(finetune_task, ladder, sentiment),
        *ONLINE.values(),
    ],
)
def test_presets_parse_and_agree_with_their_names(experiment):
    for name in experiment.presets:
        assert command.parse([f"--preset={name}"], experiment.presets, "").preset == name
        changed = command.parse(["--preset", name, "--seed", "7"], experiment.presets, "")
        assert changed.seed == 7
