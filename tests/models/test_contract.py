"""A model that is not a transformer trains, samples, is scored and is sharded like any other."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from experiments import ppo
from gpt_jax import keys
from gpt_jax.data import pipeline
from gpt_jax.data.batches import Tokens, pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.generate import generate
from gpt_jax.losses.lm import lm_loss
from gpt_jax.metrics import mean, read_metrics
from gpt_jax.models import (
    axes_of,
    contract,
    forward,
    init,
    init_cache,
    init_scorer,
    score_last_token,
    token_logprobs,
)
from gpt_jax.parallel import rules
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.rl.actor_critic import ActorCritic
from gpt_jax.rl.iteration import Inputs
from gpt_jax.rl.scoring import model_scoring
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train import state as states
from gpt_jax.train.checkpoint import Checkpoints, save_model_files
from gpt_jax.train.gradient import GradientRecipe, gradient_stage
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig, decay_mask, make_optimizer
from gpt_jax.train.origin import load_model
from gpt_jax.train.stage import LoopConfig, TrainConfig
from gpt_jax.train.state import TrainState
from tests import tiny
from tests.models.lstm import LSTM

MODEL = LSTM(vocab_size=264, context_length=24, width=16)
ROWS = [[5, 9, 11, 4, 7, 30, 2], [8, 3, 3], [20, 21, 22, 23, 24]]
EIGHT = MeshConfig(data=2, fsdp=2, tensor=2)
apply = jax.jit(forward, static_argnums=0)


@functools.cache
def params():
    return jax.tree.map(lambda x: 3.0 * x, init(MODEL, jax.random.key(0)))


def rows(sequences, width, side="right"):
    left = pad_prompts(sequences, width, 0).tokens_BP
    return left if side == "left" else tiny.padded(sequences, width).tokens_BT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str


def pretrain(folder, mesh):
    """A dozen steps through `run_stage`, on a text of few words."""
    recipe = GradientRecipe(
        optimizer=OptimizerConfig(learning_rate=3e-2),
        train=TrainConfig(steps=12, batch_size=8, log_every=1, evaluate_every=12),
    )
    batch = tiny.padded([[5 + i % 3, 9, 11, 4] * 4 for i in range(16)], 16)
    tokenizer = Tokenizer.train(["a b"], 261)
    run_stage(
        "pretrain",
        Config(run_dir=str(folder), mesh=mesh),
        lambda config, mesh: gradient_stage(
            recipe,
            batch,
            batch,
            seed=0,
            mesh=mesh,
            model=MODEL,
            tokenizer=tokenizer,
            first=lambda seed: init(MODEL, keys.derive(seed, 0, "init")),
            loss=lm_loss,
        ),
    )
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]


def test_it_is_pretrained_and_loaded_again(tmp_path):
    """On one device and on eight, with the same losses."""
    losses = pretrain(tmp_path / "one", MeshConfig(data=1))
    assert losses[-1] < losses[0] - 1.0
    np.testing.assert_allclose(pretrain(tmp_path / "eight", EIGHT), losses, atol=1e-4)
    model, loaded, _ = load_model(tmp_path / "eight", make_mesh(EIGHT))
    assert model == MODEL and loaded["gates"].sharding.spec == P(("fsdp",), ("tensor",))
    (tmp_path / "one" / "model.json").write_text('{"type": "Mamba", "width": 3}')
    with pytest.raises(UserError, match="a model of type Mamba is not known here"):
        load_model(tmp_path / "one")


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_segments_are_kept_apart(side):
    """Invariants 1 and 7. Break it: leave out `is_new_B1` in lstm.py."""
    together, _ = apply(MODEL, params(), rows(ROWS, 9, side))
    for row, hidden in zip(ROWS, together, strict=True):
        alone, _ = apply(MODEL, params(), rows([row], len(row)))
        real = slice(9 - len(row), 9) if side == "left" else slice(len(row))
        np.testing.assert_allclose(hidden[real], alone[0], atol=1e-6)
    parts = [rows([row], len(row)) for row in ROWS]
    packed = Tokens(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))
    segments = np.repeat([1, 2, 3], [len(row) for row in ROWS])[None]
    hidden, _ = apply(MODEL, params(), packed._replace(segment_ids=segments.astype(np.int32)))
    apart = [apply(MODEL, params(), part)[0][0] for part in parts]
    np.testing.assert_allclose(hidden[0], np.concatenate(apart), atol=1e-6)


def test_it_samples_what_the_full_forward_says():
    """Invariant 2."""
    prompts = pad_prompts(ROWS, 8, 0)
    sample = functools.partial(generate, MODEL, max_new_tokens=6, stop_ids=(1,), pad_id=0)
    rollout = jax.jit(sample)(params(), prompts, jax.random.key(1))
    hidden, _ = apply(MODEL, params(), rollout.tokens_BT)
    logprobs, _ = token_logprobs(MODEL, params(), hidden[:, 7:-1], rollout.completion_BC.ids)
    np.testing.assert_allclose(rollout.logprobs_BC, logprobs * rollout.mask_BC, atol=1e-5)


def test_it_is_scored_at_the_last_real_token():
    """Invariant 8."""
    scorer = init_scorer(MODEL, params(), jax.random.key(2))
    together = score_last_token(MODEL, scorer, rows(ROWS, 9))
    for score, row in zip(together, ROWS, strict=True):
        alone = score_last_token(MODEL, scorer, rows([row], len(row)))
        np.testing.assert_allclose(score, alone[0], atol=1e-6)


def test_its_axes_say_how_a_state_lies_and_what_decays():
    axes = axes_of(MODEL)
    optimizer = make_optimizer(OptimizerConfig(moments="factored", params="bfloat16"), 10, axes)

    def create():
        scorer = init_scorer(MODEL, init(MODEL, jax.random.key(0)), jax.random.key(1))
        return TrainState.create(scorer, optimizer)

    state = states.abstract(create, mesh=make_mesh(EIGHT), axes=axes)
    inner, masters = state.opt_state.inner[1], state.opt_state.masters
    assert masters["backbone"]["gates"].sharding.spec == P(("fsdp",), ("tensor",))
    assert inner.nu["backbone"]["gates"].row.sharding.spec == P(("fsdp",))
    assert inner.nu["backbone"]["gates"].col.sharding.spec == P(("tensor",))
    assert state.params["backbone"]["bias"].sharding.spec == P(("tensor",))
    assert state.params["backbone"]["gates"].dtype == jnp.bfloat16
    assert state.params["head"]["kernel_D"].dtype == jnp.float32
    assert decay_mask(axes, state.params) == {
        "backbone": {"embed": True, "gates": True, "bias": False},
        "head": {"kernel_D": False, "bias": False},
    }


def test_tables_of_two_models_are_joined_and_must_agree():
    """A policy and a value model of another type lie on one mesh."""
    both = axes_of(MODEL, tiny.MODEL)
    assert both["gates"] == ("width", "mlp") and "blocks/mlp/up" in both
    assert rules.find_axes(both, "value/backbone/gates/row", 1) == ("width",)
    other = dataclasses.make_dataclass("Other", [], frozen=True)
    contract.logical_axes.register(other)(lambda model: {"gates": (None, None)})
    with pytest.raises(ValueError, match="gates has axes"):
        axes_of(MODEL, other())


def test_ppo_with_a_policy_and_a_value_model_of_different_types(tmp_path):
    """An iteration on a mesh; of its folder the policy is read, though nobody knows the other."""
    recipe = ppo.PPO(
        episodes=8,
        epochs=1,
        minibatches=2,
        max_new_tokens=6,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=LoopConfig(steps=1),
    )
    shapes = ActorCritic(MODEL, tiny.MODEL)
    made = ppo.functions(recipe, shapes, tiny.ENDS, model_scoring(tiny.MODEL), 1)
    mesh = make_mesh(EIGHT)
    make = functools.partial(states.create, mesh=mesh, axes=made.axes)
    with jax.set_mesh(mesh):
        policy = make(lambda: init(MODEL, jax.random.key(0)))
        key = jax.random.key(1)
        scorer = make(lambda: init_scorer(tiny.MODEL, init(tiny.MODEL, key), key))
        state = make(made.init, np.uint32(0), policy, scorer)
        prompts = pipeline.place(tiny.prompts(np.random.default_rng(0), 8), mesh)
        frozen = {"reference": policy, "reward": scorer}
        state, metrics = made.step(state, Inputs(prompts), frozen)
    metrics = mean(jax.device_get(metrics))
    assert metrics["skipped"] == 0 and metrics["val/sampler_logprob_gap"] < 1e-4
    assert np.abs(state.params["policy"]["gates"] - policy["gates"]).max() > 1e-4

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    checkpoints.close()
    save_model_files(tmp_path, MODEL, Tokenizer.train(["a b"], 261))
    model, loaded, _ = load_model(tmp_path, mesh)
    assert model == MODEL
    chex.assert_trees_all_equal(jax.device_get(loaded), jax.device_get(state.params["policy"]))


def test_what_is_no_model_is_named():
    with pytest.raises(TypeError, match="int is no model: .*contract.init_cache"):
        init_cache(3, 1, 1)
