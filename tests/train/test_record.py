"""What may change between two starts of a run, and what an evaluation that fails leaves behind."""

import dataclasses
import json
import shutil
from pathlib import Path

import chex
import numpy as np
import pytest

from gpt_jax import keys
from gpt_jax.data import pipeline
from gpt_jax.errors import UserError
from gpt_jax.losses.lm import lm_loss
from gpt_jax.metrics import read_metrics
from gpt_jax.models.contract import init
from gpt_jax.parallel.mesh import MeshConfig
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train.checkpoint import Checkpoints, load_params
from gpt_jax.train.gradient import gradient_functions
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.record import WHERE, compare_config, record_config
from gpt_jax.train.stage import TrainConfig
from tests import tiny

TOKENIZER = Tokenizer.train(["yes"], 270)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    optimizer: OptimizerConfig = OptimizerConfig(schedule="constant", warmup_fraction=0.0)
    train: TrainConfig = TrainConfig(steps=2, batch_size=4, log_every=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str
    mesh: MeshConfig = MeshConfig(data=1)
    test: Recipe = Recipe()


class Evaluate:
    """Held-out metrics that can be told to fail."""

    def __init__(self, fails=False):
        self.fails = fails

    def look(self, state, frozen):
        pass

    def __call__(self, state, frozen):
        if self.fails:
            raise RuntimeError("no such metric")
        return {"steps": int(state.step)}


def train(config, evaluate=None):
    """Runs the stage in the folder of the configuration."""
    rows = tiny.padded(tiny.random_rows(np.random.default_rng(0), 16), 20)
    recipe = config.test
    batch_at = pipeline.make_batch_at(rows, recipe.train.batch_size, config.seed)
    functions = gradient_functions(
        tiny.MODEL,
        lm_loss,
        recipe.optimizer,
        recipe.train,
        lambda seed: init(tiny.MODEL, keys.derive(seed, 0, "init")),
    )
    stage = tiny.stage(
        functions, recipe.train, batch_at, tokenizer=TOKENIZER, evaluate=evaluate or Evaluate()
    )
    run_stage("test", config, lambda config, mesh: stage)


def changed(config, **settings):
    """The configuration with other settings of `train`."""
    recipe = config.test
    train = dataclasses.replace(recipe.train, **settings)
    return dataclasses.replace(config, test=dataclasses.replace(recipe, train=train))


def rows_of(folder, name):
    return [row["step"] for row in read_metrics(folder) if name in row]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two steps."""
    config = Config(run_dir=str(tmp_path_factory.mktemp("runs") / "run"))
    train(config)
    return config


def test_a_step_of_a_finished_run_can_be_replayed_and_no_other(finished, tmp_path, capsys):
    """Break it: ask `is_finished` first, or remove its mark."""
    config = dataclasses.replace(finished, run_dir=str(tmp_path / "run"))
    shutil.copytree(finished.run_dir, config.run_dir)
    with pytest.raises(SystemExit) as end:
        train(dataclasses.replace(config, replay=1))
    assert end.value.code == 0 and "step 1 again" in capsys.readouterr().out
    assert (tmp_path / "run" / "finished").exists()
    with pytest.raises(UserError, match="--replay 3: test has only 2 steps"):
        train(dataclasses.replace(config, replay=3))


def test_a_finished_run_goes_on_when_its_steps_grow(finished, tmp_path, capsys):
    """On another mesh, logging otherwise; with a constant rate it is a run of so many steps."""
    grown = changed(finished, steps=4, evaluate_every=3, checkpoint_every=3)
    grown = dataclasses.replace(grown, mesh=MeshConfig(data=2, fsdp=2), tensorboard=True)
    train(grown)
    said = capsys.readouterr().out
    assert "test.train.steps grows from 2 to 4" in said and "from step 2" in said
    assert rows_of(grown.run_dir, "loss") == [1, 2, 3, 4]
    assert rows_of(grown.run_dir, "eval/steps") == [2, 3, 4]
    written = json.loads((Path(grown.run_dir) / "config.json").read_text())
    assert written["test"]["train"]["steps"] == 4 and written["mesh"]["fsdp"] == 2

    whole = dataclasses.replace(changed(finished, steps=4), run_dir=str(tmp_path / "whole"))
    train(whole)
    chex.assert_trees_all_close(load_params(whole.run_dir), load_params(grown.run_dir), atol=1e-4)

    train(grown)
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"test\.train\.steps was 4 and is now 3"):
        train(changed(grown, steps=3))


@pytest.mark.parametrize(
    "change",
    [
        {"mesh": MeshConfig(fsdp=8)},
        {"wandb": True},
        {"replay": 3},
        {"coordinator": "auto", "processes": 2, "process_id": 1},
        {"test": {"log_every": 7}},
        {"test": {"most_skipped": 3, "evaluate_every": 9, "checkpoint_every": 2}},
    ],
)
def test_how_a_run_is_made_may_change(change, tmp_path):
    config = Config(run_dir=str(tmp_path))
    record_config(tmp_path, "test", config)
    if "test" in change:
        other = changed(config, **change["test"])
    else:
        other = dataclasses.replace(config, **change)
    assert other != config and not compare_config(tmp_path, "test", other)
    record_config(tmp_path, "test", other)
    assert not WHERE & set(json.loads((tmp_path / "config.json").read_text()))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"optimizer": OptimizerConfig(learning_rate=2e-3)},
            r"test\.optimizer\.learning_rate was 0\.001 and is now 0\.002",
        ),
        (
            {"train": TrainConfig(steps=2, batch_size=8)},
            r"test\.train\.batch_size was 4 and is now 8",
        ),
        ({"train": TrainConfig(steps=1, batch_size=4)}, r"test\.train\.steps was 2 and is now 1"),
        ({"train": TrainConfig(steps=0, batch_size=4)}, r"test\.train\.steps was 2 and is now 0"),
    ],
)
def test_what_changes_the_result_is_refused_and_named(change, sentence, tmp_path):
    recipe = Recipe(optimizer=OptimizerConfig())
    config = Config(run_dir=str(tmp_path), test=recipe)
    record_config(tmp_path, "test", config)
    before = (tmp_path / "config.json").read_bytes()
    other = dataclasses.replace(config, test=dataclasses.replace(recipe, **change))
    with pytest.raises(UserError, match=f"{sentence}.*another --run-dir"):
        record_config(tmp_path, "test", other)
    with pytest.raises(UserError, match="stage was test and is now another"):
        record_config(tmp_path, "another", config)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize("evaluate_every", [1, 100])
def test_an_evaluation_that_fails_loses_no_step(tmp_path, evaluate_every):
    """In the middle and at the end. Break it: evaluate before the checkpoint is saved, or let a
    resumed run take the step it starts from for evaluated."""
    config = changed(Config(run_dir=str(tmp_path)), evaluate_every=evaluate_every)
    config = changed(config, checkpoint_every=1)
    reached = min(evaluate_every, 2)
    with pytest.raises(RuntimeError, match="no such metric"):
        train(config, Evaluate(fails=True))
    assert Checkpoints(tmp_path).newest().name == str(reached)
    assert rows_of(tmp_path, "loss") == list(range(1, reached + 1))
    assert not (tmp_path / "finished").exists()
    train(config)
    assert rows_of(tmp_path, "loss") == [1, 2]
    assert rows_of(tmp_path, "eval/steps") == list(range(reached, 3))
    assert (tmp_path / "finished").exists()
