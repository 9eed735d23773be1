"""Bad numbers, full disks, damaged checkpoints: one clear sentence, and nothing is lost."""

import dataclasses
import functools
import math
import resource

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax import files
from gpt_jax.data import pipeline
from gpt_jax.errors import UserError
from gpt_jax.losses.lm import lm_loss
from gpt_jax.metrics import MetricWriter, read_metrics
from gpt_jax.models.contract import init
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.train import command
from gpt_jax.train import state as states
from gpt_jax.train.checkpoint import Checkpoints, checksums, load_params
from gpt_jax.train.finite import Learner, update_if_finite
from gpt_jax.train.loop import fit
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.run import Run
from gpt_jax.train.stage import Functions, TrainConfig
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import make_train_step
from tests import tiny

MESH = MeshConfig(data=1)
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2), 40, tiny.AXES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str


def create(key):
    return TrainState.create(init(tiny.MODEL, key), OPTIMIZER)


@functools.cache  # one program for all tests
def train_step():
    return make_train_step(tiny.MODEL, lm_loss, OPTIMIZER)


def train(folder, bad_steps=(), steps=8, replay=None):
    """A run of the tiny model whose batches of `bad_steps` hold a NaN."""
    rows = tiny.padded(tiny.random_rows(np.random.default_rng(0), 16), 20)
    batch_at = pipeline.make_batch_at(rows, 4, 0)
    mesh = make_mesh(MESH)

    def spoiled(step):
        batch = batch_at(step)
        return batch._replace(weights_BT=batch.weights_BT * (np.nan if step in bad_steps else 1))

    with Run("test", Config(run_dir=str(folder), replay=replay)) as run:
        state = run.restore_or_create(create, jax.random.key(0), mesh=mesh, axes=tiny.AXES)
        stage = tiny.stage(
            Functions(create, train_step(), tiny.AXES),
            TrainConfig(steps=steps, log_every=100, checkpoint_every=2, most_skipped=3),
            spoiled,
            row_numbers=batch_at.numbers,
        )
        return fit(run, stage, state, {}, mesh)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path):
    """Break `update_if_finite`: return what the optimizer gives, whatever it is."""
    with jax.set_mesh(make_mesh(MESH)):
        state = states.create(create, jax.random.key(0), mesh=make_mesh(MESH), axes=tiny.AXES)
        before = jax.device_get(state)
        batch = tiny.padded(tiny.random_rows(np.random.default_rng(0), 4), 20)
        bad = batch._replace(weights_BT=batch.weights_BT * np.inf)
        state, metrics = train_step()(state, pipeline.place(bad, make_mesh(MESH)), {})
    chex.assert_trees_all_equal(state.params, before.params)
    chex.assert_trees_all_equal(state.opt_state, before.opt_state)
    assert int(state.step) == 1 and float(metrics["skipped"][0]) == 1

    train(tmp_path, bad_steps=(2, 3, 5))
    skipped = {row["step"]: row["skipped"] for row in read_metrics(tmp_path)}
    assert skipped == {1: 0, 3: 1, 4: 1, 6: 1, 8: 0}, "a skipped step is always logged"


def test_the_update_of_a_finite_step_is_the_optimizers():
    """Also in bits: the guard only chooses."""
    params = tiny.params()
    batch = tiny.padded(tiny.random_rows(np.random.default_rng(0), 4), 20)

    @jax.jit
    def both(params, batch):
        grads = jax.grad(lambda p: lm_loss(tiny.MODEL, p, batch)[0])(params)
        before = OPTIMIZER.init(params)
        updates, opt_state = OPTIMIZER.update(grads, before, params)
        guarded = update_if_finite(OPTIMIZER, Learner(params, before), jnp.ones(()), grads)
        return guarded, Learner(jax.tree.map(jnp.add, params, updates), opt_state)

    (guarded, metrics), plain = both(params, batch)
    chex.assert_trees_all_equal(guarded, plain)
    norms = [float(v) for k, (v, _) in metrics.items() if k.startswith("grad_norm/")]
    np.testing.assert_allclose(metrics["grad_norm"][0], math.hypot(*norms), rtol=1e-5)


def test_a_run_of_bad_steps_ends_it_and_is_replayed(tmp_path, capsys):
    """Steps 4, 5 and 6 are bad: the checkpoint of step 2 is the last good one."""
    with pytest.raises(UserError, match="steps 4 to 6 .* were skipped") as ended:
        train(tmp_path, bad_steps=(3, 4, 5))
    rows = " ".join(map(str, pipeline.row_numbers(3, 4, 16, seed=0)))
    assert f"{tmp_path}/checkpoints/2;" in str(ended.value)
    assert f"step 4 has the rows {rows} and the keys of keys.derive(seed=0, step=3" in str(
        ended.value
    )
    assert "--replay 4" in str(ended.value)
    written = sorted(tmp_path.rglob("*"))
    for step, first, bad in ((4, 2, "blocks/attn/k (nan), "), (2, 0, "none")):
        with pytest.raises(SystemExit) as ended:
            train(tmp_path, bad_steps=(3, 4, 5), replay=step)
        said = capsys.readouterr().out
        assert ended.value.code == 0
        assert f"step {step} again, from step {first}" in said
        assert f"gradients that are not finite: {bad}" in said
    assert sorted(tmp_path.rglob("*")) == written, "a replay writes nothing"


def create_large(key):
    """One matrix, too large to lie in the file format's own checked index."""
    return TrainState.create({"embed": {"tokens": jax.random.normal(key, (512, 64))}}, OPTIMIZER)


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints of a state, and the state of the newer."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    state = states.create(create_large, jax.random.key(0), mesh=mesh, axes=tiny.AXES)
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, dataclasses.replace(state, step=jnp.int32(step)))
    checkpoints.close()
    return tmp_path, jax.device_get(dataclasses.replace(state, step=np.int32(2)))


def test_checksums_see_every_bit_on_every_mesh():
    rng = np.random.default_rng(0)
    array = rng.normal(size=(4, 6)).astype(np.float32)
    words = array.view(np.uint32).astype(np.uint64).ravel()
    expected = int((words * (2 * np.arange(24, dtype=np.uint64) + 1)).sum() % 2**32)
    spec = jax.sharding.PartitionSpec("data", "tensor")
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    split = jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))
    assert checksums({"a": split}) == checksums({"a": jnp.asarray(array)}) == {"a": expected}
    for bit in range(32):
        flipped = array.copy()
        flipped.view(np.uint32)[2, 3] ^= np.uint32(1) << np.uint32(bit)
        assert checksums({"a": jnp.asarray(flipped)}) != {"a": expected}


def damage(path, how, rng):
    data = bytearray(path.read_bytes())
    if how == "cut short":
        data = data[: len(data) // 2]
    else:
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut short", "a flipped bit"])
def test_a_damaged_checkpoint_is_named_or_harmless(saved, how):
    """Each file in turn. Break it: without `_verify`, flipped bits pass as numbers."""
    folder, state = saved
    target = states.abstract(create_large, jax.random.key(0), mesh=make_mesh(MESH), axes=tiny.AXES)
    checkpoints = Checkpoints(folder)
    newest = folder / "checkpoints" / "2"
    named = 0
    for path in sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size):
        whole = path.read_bytes()
        damage(path, how, np.random.default_rng(0))
        try:
            chex.assert_trees_all_equal(jax.device_get(checkpoints.restore(2, target)), state)
        except UserError as error:
            named += 1
            assert str(newest) in str(error) and "go on from step 1" in str(error), path
        path.write_bytes(whole)
    chex.assert_trees_all_equal(jax.device_get(checkpoints.restore(2, target)), state)
    assert named >= 5
    assert checkpoints.steps() == [1, 2], "nothing is deleted"
    checkpoints.close()


def test_a_stage_does_not_start_from_damaged_parameters(saved):
    folder, state = saved
    chex.assert_trees_all_equal(jax.device_get(load_params(folder)), state.params)
    files = [p for p in (folder / "checkpoints/2/params").rglob("*") if p.is_file()]
    damage(max(files, key=lambda p: p.stat().st_size), "a flipped bit", np.random.default_rng(0))
    with pytest.raises(UserError, match="checkpoints/2: .*embed/tokens is not what was written"):
        load_params(folder)


def test_a_full_disk_is_one_sentence_and_the_older_checkpoint_stays(tmp_path):
    """A limit on the size of files stands for the disk: the kernel refuses the write."""
    train(tmp_path, steps=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(UserError, match="a checkpoint could not be written .*too large"):
            train(tmp_path, steps=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Checkpoints(tmp_path).steps() == [2]
    assert int(train(tmp_path, steps=8).step) == 8


def test_a_row_of_metrics_that_cannot_be_written(tmp_path):
    writer = MetricWriter(tmp_path)
    with open("/dev/full", "wb", buffering=0) as full:
        writer._file = full
        with pytest.raises(UserError, match="metrics.jsonl: cannot be written .No space left"):
            writer.write(1, {"loss": 1.0})


def test_files_are_written_whole_or_not_at_all(tmp_path):
    files.write_text(tmp_path / "a.json", "old")
    (tmp_path / "a.json.partial").mkdir()  # what is in the way stands for any error
    with pytest.raises(UserError, match="a.json: cannot be written .Is a directory"):
        files.write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
