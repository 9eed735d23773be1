"""What a model writes while it trains: at which steps, once each, and the same after a kill."""

import dataclasses

import jax
import numpy as np
import pytest

from gpt_jax.data import pipeline
from gpt_jax.errors import UserError
from gpt_jax.generate import text as text_module
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.models.heads import axes_of
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.report.openings import read_openings
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train import state as states
from gpt_jax.train.launch import look_at
from gpt_jax.train.loop import fit
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.run import Run
from gpt_jax.train.samples import Samples, sample_steps
from gpt_jax.train.stage import Functions, TrainConfig
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import make_train_step
from tests import tiny

TOKENIZER = Tokenizer.train(["hello there, how are you?"] * 4, vocab_size=280)
MODEL = ModelConfig(vocab_size=288, context_length=64, width=16, layers=1, heads=2)
OPENINGS = ["hello", "how are", "User: you?\nAssistant:"]
STEPS = 20
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2), STEPS, axes_of(MODEL))
STEP = make_train_step(MODEL, lm_loss, OPTIMIZER)
ROWS = pipeline.make_batch_at(
    tiny.padded(tiny.random_rows(np.random.default_rng(0), 16), 20), 4, seed=0
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str


class Killed(Exception):
    """As SIGKILL would, here and now."""


def create(seed):
    return TrainState.create(init(MODEL, jax.random.key(seed)), OPTIMIZER)


def samples(mesh, openings=OPENINGS) -> Samples:
    return Samples(MODEL, TOKENIZER, openings, mesh, 0)


def stage(mesh, batch_at=ROWS, **fields):
    train = TrainConfig(steps=STEPS, checkpoint_every=5, evaluate_every=100)
    fields = {"samples": samples(mesh)} | fields
    return tiny.stage(Functions(create, STEP, axes_of(MODEL)), train, batch_at, **fields)


def train(folder, *, in_step=None, before_writing=None, after_writing=None):
    """Trains, or goes on, until it is killed in a step or about the samples of one."""
    mesh = make_mesh(MeshConfig(data=1))

    def batch_at(number):
        if number + 1 == in_step:
            raise Killed
        return ROWS(number)

    with Run("test", Config(run_dir=str(folder))) as run:
        write = run.write_samples

        def written(number, texts):
            if number == before_writing:
                raise Killed
            write(number, texts)
            if number == after_writing:
                raise Killed

        run.write_samples = written
        state = run.restore_or_create(create, np.uint32(0), mesh=mesh, axes=axes_of(MODEL))
        fit(run, stage(mesh, batch_at), state, {}, mesh)


def test_the_steps_are_the_first_a_tenth_half_and_all():
    assert sample_steps(1400) == {1, 140, 700, 1400}
    assert sample_steps(20) == {1, 2, 10, 20}
    assert sample_steps(3) == {1, 2, 3} and sample_steps(1) == {1}


def test_every_due_step_has_every_opening_and_one_program_writes_them(tmp_path):
    before = text_module._generate._cache_size()
    train(tmp_path)
    assert text_module._generate._cache_size() - before == 1
    rows = read_openings(tmp_path)
    assert [(row["step"], row["prompt"]) for row in rows] == [
        (step, opening) for step in (1, 2, 10, 20) for opening in OPENINGS
    ]
    first, last = rows[: len(OPENINGS)], rows[-len(OPENINGS) :]
    assert [row["text"] for row in first] != [row["text"] for row in last]


@pytest.mark.slow
def test_killed_anywhere_no_row_is_lost_or_doubled(tmp_path):
    """Invariant 6, to the byte. Break it: leave out what `fit` makes up for before its first step,
    or keep all rows in `add_openings`."""
    train(tmp_path / "whole")
    for kill in (
        {"before_writing": 1},
        {"after_writing": 2},  # no checkpoint yet: begins again
        {"in_step": 4},
        {"before_writing": 10},  # its checkpoint is written, so only this makes up for it
        {"in_step": 13},
        {"before_writing": 20},
    ):
        with pytest.raises(Killed):
            train(tmp_path / "killed", **kill)
    train(tmp_path / "killed")
    ours, theirs = (
        (tmp_path / name / "samples.jsonl").read_bytes() for name in ("whole", "killed")
    )
    assert ours == theirs


def test_what_cannot_be_asked_ends_the_run_at_its_start():
    """Invariant 13. Break it: leave the samples out of `look_at`."""
    mesh = make_mesh(MeshConfig(data=1))
    look_at(stage(mesh), 0, mesh)
    with pytest.raises(UserError, match="too long"):
        look_at(stage(mesh, samples=samples(mesh, ["hello " * 40])), 0, mesh)


@pytest.mark.parametrize("shape", [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=8)])
def test_a_mesh_writes_the_same(shape):
    """Three openings, which eight devices do not divide."""
    one, many = make_mesh(MeshConfig(data=1)), make_mesh(shape)
    texts = []
    for mesh in (one, many):
        state = states.create(create, np.uint32(0), mesh=mesh, axes=axes_of(MODEL))
        with jax.set_mesh(mesh):
            texts.append(samples(mesh)(state.params))
    assert texts[0] == texts[1] and list(texts[0]) == OPENINGS


def test_without_an_opening_nothing_is_written():
    mesh = make_mesh(MeshConfig(data=1))
    none = samples(mesh, [])
    none.look(jax.eval_shape(create, np.uint32(0)).params)
    assert none(create(0).params) == {}
