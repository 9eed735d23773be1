"""Finetuning on a task, from start to end: stopped, gone on with, and what it leaves."""

import json

import chex
import jax
import pytest

from experiments import finetune_task
from gpt_jax.errors import UserError
from gpt_jax.metrics import read_metrics
from gpt_jax.models.contract import init
from gpt_jax.models.heads import axes_of
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train.checkpoint import Checkpoints, load_params, save_model_files
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.record import record_config
from gpt_jax.train.state import TrainState
from gpt_jax.train.stop import Stop
from tests.losses.bag import Bag


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Rows, and the run folder of a language model."""
    folder = tmp_path_factory.mktemp("task")
    made = [{"text": f"{'red' if n % 2 else 'blue'} {n}", "label": n % 2} for n in range(120)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    base, model = folder / "base", Bag(vocab_size=264, context_length=32)
    base.mkdir()
    record_config(base, "sft", finetune_task.smoke())
    save_model_files(base, model, Tokenizer.train(["red blue 1 2 3 4"] * 3, 264))
    params = init(model, jax.random.key(0))
    state = TrainState.create(params, make_optimizer(OptimizerConfig(), 1, axes_of(model)))
    checkpoints = Checkpoints(base)
    checkpoints.save(1, state)
    checkpoints.close()
    return folder


def config_of(here, run_dir, *options):
    options = [
        *("--preset=smoke", "--mesh.data=1", f"--init-from={here}/base", f"--run-dir={run_dir}"),
        *(f"--task={here}/rows.jsonl", "--finetune-task.train.steps=6"),
        *("--finetune-task.train.log-every=1", *options),
    ]
    return command.parse(options, finetune_task.presets, "")


@pytest.mark.slow
def test_it_stops_and_goes_on_to_the_same_end(here, tmp_path, monkeypatch):
    """Invariant 6; break it: draw the head anew where a folder is gone on with."""
    whole, broken = (config_of(here, tmp_path / end) for end in ("whole", "broken"))
    finetune_task.main(whole)
    calls = iter(range(100))
    with monkeypatch.context() as stopping:
        stopping.setattr(Stop, "wanted", lambda stop: next(calls) == 1)
        with pytest.raises(SystemExit):
            finetune_task.main(broken)
    finetune_task.main(broken)
    ours, theirs = (load_params(tmp_path / end) for end in ("whole", "broken"))
    chex.assert_trees_all_equal(ours, theirs)
    assert set(ours) == {"backbone", "head"}
    last = read_metrics(tmp_path / "whole")[-1]
    assert 0.0 <= last["eval/accuracy"] <= 1.0
    assert json.loads((tmp_path / "whole/task.json").read_text()) == {"classes": ["0", "1"]}


def test_rows_that_have_changed_are_noticed(here, tmp_path):
    config = config_of(here, tmp_path / "run")
    finetune_task.main(config)
    with (here / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"text": "green", "label": 1}) + "\n")
    with pytest.raises(UserError, match="task .*has changed since"):
        finetune_task.main(config)
