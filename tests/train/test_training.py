"""The optimizer, checkpoints, run folders and the loop."""

import dataclasses
import json
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.data import pipeline
from gpt_jax.data.batches import Comparisons
from gpt_jax.errors import UserError
from gpt_jax.losses.lm import lm_loss
from gpt_jax.losses.ranking import ranking_loss
from gpt_jax.metrics import read_metrics
from gpt_jax.models.contract import init
from gpt_jax.models.heads import init_scorer
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.train import command
from gpt_jax.train import state as states
from gpt_jax.train.checkpoint import Checkpoints, load_params
from gpt_jax.train.evaluate import HeldOut
from gpt_jax.train.loop import fit
from gpt_jax.train.optim import OptimizerConfig, decay_mask, make_optimizer, rate_at
from gpt_jax.train.run import Run
from gpt_jax.train.stage import Functions, TrainConfig
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import make_train_step
from tests import tiny

ONE = MeshConfig(data=1)


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
def test_schedule_rises_then_falls(shape):
    config = OptimizerConfig(learning_rate=2.0, schedule=shape, warmup_fraction=0.1)
    rates = [float(rate_at(config, 100, 2.0, n)) for n in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0) and rates[10] == pytest.approx(2.0)
    assert rates[99] == pytest.approx(2.0 if shape == "constant" else 0.2, rel=0.15)
    assert all(a >= b - 1e-6 for a, b in zip(rates[10:], rates[11:], strict=False))


def test_decay_ends_before_the_run_does_and_the_rate_stays():
    config = OptimizerConfig(learning_rate=2.0, warmup_fraction=0.1, decay_fraction=0.8)
    rates = [float(rate_at(config, 100, 2.0, n)) for n in range(100)]
    assert rates[45] == pytest.approx(1.1)  # half way of the cosine, between the peak and a tenth
    assert rates[79] > 0.2 and rates[80:] == pytest.approx([0.2] * 20)


def test_no_clip_leaves_a_large_gradient_as_it_is():
    config = OptimizerConfig(clip=None, warmup_fraction=0.0)
    params = {"blocks": {"mlp": {"up": jnp.zeros((1, 2))}}}
    grads = jax.tree.map(lambda _: jnp.array([[300.0, -400.0]]), params)
    optimizer = make_optimizer(config, 10, {"blocks/mlp/up": ("width", "mlp")})
    _, state = optimizer.update(grads, optimizer.init(params), params)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (1, 2)]
    assert any(jnp.allclose(m, 0.1 * grads["blocks"]["mlp"]["up"]) for m in moments)


def test_decay_spares_norms_biases_and_positions():
    mask = decay_mask(tiny.AXES, init(tiny.MODEL, jax.random.key(0)))
    assert mask["embed"] == {"tokens": True, "positions": False}
    assert mask["blocks"]["attn"]["q"] and not mask["blocks"]["attn"]["q_bias"]
    assert not any(mask["final_norm"].values())


def test_first_update_is_adamw_in_float64():
    """One AdamW step with clipping (Loshchilov & Hutter 2019, alg. 2), by hand."""
    config = OptimizerConfig(learning_rate=0.1, warmup_fraction=0.0, weight_decay=0.5, clip=1.0)
    params = {"blocks": {"mlp": {"up": jnp.array([[1.0, -2.0]])}}}
    grads = jax.tree.map(lambda _: jnp.array([[3.0, -4.0]]), params)
    optimizer = make_optimizer(config, 10, {"blocks/mlp/up": ("width", "mlp")})
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    clipped = np.array([3.0, -4.0]) / 5
    # After bias correction the first moments are g and g^2.
    expected = -0.1 * (clipped / (np.abs(clipped) + 1e-8) + 0.5 * np.array([1.0, -2.0]))
    np.testing.assert_allclose(updates["blocks"]["mlp"]["up"][0], expected, rtol=1e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str


def setup(steps=6, batch=4):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2), steps, tiny.AXES)
    rows = tiny.padded(tiny.random_rows(np.random.default_rng(0), 16), 20)

    def create(key):
        return TrainState.create(init(tiny.MODEL, key), optimizer)

    step = make_train_step(tiny.MODEL, lm_loss, optimizer)
    return create, step, pipeline.make_batch_at(rows, batch, 0)


def train(folder, steps, stop_at=None, stop_by=signal.SIGINT, config_steps=6):
    create, step, batch_at = setup(config_steps)
    mesh = make_mesh(ONE)

    def interrupted(number):
        if number == stop_at:
            signal.raise_signal(stop_by)
        return batch_at(number)

    with Run("test", Config(run_dir=str(folder))) as run:
        state = run.restore_or_create(create, jax.random.key(0), mesh=mesh, axes=tiny.AXES)
        stage = tiny.stage(
            Functions(create, step, tiny.AXES),
            TrainConfig(steps=steps, log_every=1, checkpoint_every=2),
            interrupted,
            row_numbers=batch_at.numbers,
            tokens_at=lambda step: 80,
        )
        return fit(run, stage, state, {}, mesh)


@pytest.mark.parametrize(
    ("number", "ends_in"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, number, ends_in):
    """Step 4 is the one in flight: it is finished, logged and saved."""
    whole = train(tmp_path / "whole", 6)
    handler = signal.getsignal(number)
    with pytest.raises(ends_in) as ended:
        train(tmp_path / "broken", 6, stop_at=3, stop_by=number)
    assert number == signal.SIGINT or ended.value.code == 0
    assert signal.getsignal(number) == handler
    assert Checkpoints(tmp_path / "broken").steps() == [2, 4]
    resumed = train(tmp_path / "broken", 6)
    chex.assert_trees_all_equal(whole.params, resumed.params)
    steps = [row["step"] for row in read_metrics(tmp_path / "broken")]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "broken" / "report.html").exists()


def test_every_step_and_micro_batch_has_its_own_key():
    """Invariant 10. Break the step in `keys.derive`, or the `fold_in`, of train/step.py."""

    def loss(model, params, row, key, frozen):
        draws = jnp.zeros(2).at[row[0]].set(jax.random.uniform(key))
        return params["w"] ** 2, jnp.float32(1), {"draws": (draws, 1)}

    optimizer = make_optimizer(OptimizerConfig(), 10, tiny.AXES)
    step = make_train_step(None, loss, optimizer, accumulate=2)
    state, seen = TrainState.create({"w": jnp.float32(1)}, optimizer), []
    for _ in range(3):
        state, metrics = step(state, jnp.arange(2), {})
        seen += metrics["draws"][0].tolist()
    assert len(set(seen)) == 6


def test_the_step_compiles_once():
    """Count compilations: a change of shape, dtype or sharding between steps would retrace."""
    chex.clear_trace_counter()
    optimizer = make_optimizer(OptimizerConfig(), 10, tiny.AXES)

    @chex.assert_max_traces(n=1)
    def loss(model, params, batch, key, frozen):
        return lm_loss(model, params, batch)

    create, _, batch_at = setup()
    step, mesh = make_train_step(tiny.MODEL, loss, optimizer), make_mesh(ONE)
    with jax.set_mesh(mesh):
        state = states.create(create, jax.random.key(0), mesh=mesh, axes=tiny.AXES)
        for i in range(4):
            state, _ = step(state, pipeline.place(batch_at(i), mesh), {})


def test_metrics_have_the_names_people_know(tmp_path):
    train(tmp_path, 2, config_steps=2)
    assert {"step", "loss", "grad_norm", "tokens_per_second"} <= set(read_metrics(tmp_path)[0])


def test_a_checkpoint_moves_between_meshes(tmp_path):
    """Invariant 6: from eight devices to one, back, and from rows to columns of the weights."""
    create, _, _ = setup()
    eight, one = make_mesh(MeshConfig(2, 2, 2)), make_mesh(ONE)
    fsdp, tensor = make_mesh(MeshConfig(1, 8, 1)), make_mesh(MeshConfig(1, 1, 8))
    moves = [("a", eight, one), ("b", one, eight), ("c", fsdp, tensor), ("d", tensor, fsdp)]
    for name, source, target in moves:
        state = states.create(create, jax.random.key(0), mesh=source, axes=tiny.AXES)
        checkpoints = Checkpoints(tmp_path / name)
        checkpoints.save(1, state)
        checkpoints.close()
        wanted = states.abstract(create, jax.random.key(0), mesh=target, axes=tiny.AXES)
        restored = Checkpoints(tmp_path / name).restore(1, wanted)
        chex.assert_trees_all_equal(state, restored)
        for leaf, struct in zip(jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True):
            assert leaf.sharding == struct.sharding
        alone = load_params(tmp_path / name, target, axes=tiny.AXES)
        chex.assert_trees_all_equal(state.params, alone)


def test_another_configuration_is_refused(tmp_path):
    Run("test", Config(run_dir=str(tmp_path))).__exit__(None)
    with pytest.raises(UserError, match="seed was 0 and is now 1"):
        Run("test", Config(run_dir=str(tmp_path), seed=1))
    with pytest.raises(UserError, match="cannot be written"):
        (tmp_path / "file").write_text("")
        Run("test", Config(run_dir=str(tmp_path / "file" / "run")))


def test_evaluation_counts_every_row_once():
    """Seven rows in batches of four: the eighth is empty and changes nothing (invariant 1)."""
    rows = tiny.padded(tiny.random_rows(np.random.default_rng(0), 7), 20)
    params = tiny.params()
    mesh = make_mesh(ONE)
    state = TrainState(jnp.zeros(()), params, None, None)
    value = HeldOut(tiny.MODEL, lm_loss, rows, 4, mesh)(state, {})["loss"]
    total, count, _ = lm_loss(tiny.MODEL, params, rows)
    assert value == pytest.approx(float(total / count), rel=1e-6)


def test_reward_metrics_ignore_empty_slots_and_pad_width():
    """Invariant 1 for the reward model: wider rows, more empty rows, the same metrics."""
    rng = np.random.default_rng(0)
    rows = tiny.comparisons(rng, 5, 3, 20)
    tokens_BKT, weights_BKT = jax.tree.map(
        lambda x: np.pad(x, ((0, 0), (0, 1), (0, 9))), (rows.tokens_BKT, rows.weights_BKT)
    )
    ranks_BK = np.pad(rows.ranks_BK, ((0, 0), (0, 1)), constant_values=-1)
    wide = Comparisons(tokens_BKT, weights_BKT, ranks_BK)
    scorer = init_scorer(tiny.MODEL, tiny.params(), jax.random.key(0))
    state, mesh = TrainState(jnp.zeros(()), scorer, None, None), make_mesh(ONE)
    a, b = (
        HeldOut(tiny.MODEL, ranking_loss, r, n, mesh)(state, {}) for r, n in ((rows, 5), (wide, 4))
    )
    assert a == pytest.approx(b, rel=1e-5)


def test_config_json_is_complete(tmp_path):
    Run("test", Config(run_dir=str(tmp_path))).__exit__(None)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {"preset", "seed", "mesh", "data"} <= set(config)
