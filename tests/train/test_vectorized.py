"""Invariant 15 for whole runs: seed s of a run of many is that seed alone.

Break it: give all seeds one seed's batches, or derive a key from the place instead of the seed.
"""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest

from gpt_jax import keys
from gpt_jax.data import pipeline
from gpt_jax.errors import UserError
from gpt_jax.losses.lm import lm_loss
from gpt_jax.metrics import read_metrics
from gpt_jax.models.contract import init
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.report import write_report
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command, launch, vectorized
from gpt_jax.train.checkpoint import Checkpoints, load_model_files, load_params
from gpt_jax.train.evaluate import HeldOut, metrics_of
from gpt_jax.train.gradient import gradient_functions
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.origin import load_model
from gpt_jax.train.seeds_run import configs_of
from gpt_jax.train.served import open_run
from gpt_jax.train.stage import Parameters, TrainConfig
from gpt_jax.train.vectorized import Frozen, load_all, step_of_all
from tests import tiny

MODEL = dataclasses.replace(tiny.MODEL, layers=1, vocab_size=270)
TOKENIZER = Tokenizer.train(["yes"], 270)
ROWS = tiny.padded(tiny.random_rows(np.random.default_rng(0), 24), 20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-2)
    train: TrainConfig = TrainConfig(
        steps=4, batch_size=8, log_every=1, checkpoint_every=2, evaluate_every=2
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str
    mesh: MeshConfig = MeshConfig(data=1)
    pretrain: Recipe = Recipe()


def bias_at_the_end(state, frozen):
    return dataclasses.replace(state, params=jax.tree.map(lambda p: p + 1.0, state.params))


def train(config, step=None, at=None):
    """Runs the stage; `step` may replace that of the model, `at(seed, number)` sees every batch."""

    def prepare(config, mesh):
        recipe = config.pretrain
        made = gradient_functions(
            MODEL,
            lm_loss,
            recipe.optimizer,
            recipe.train,
            lambda seed: init(MODEL, keys.derive(seed, 0, "init")),
        )
        batches = pipeline.make_batch_at(
            ROWS, recipe.train.batch_size, config.seed, pipeline.share(mesh)
        )

        def batch_at(number):
            if at:
                at(config.seed, number)
            return batches(number)

        stage = tiny.stage(
            made if step is None else made._replace(step=step(made.step)),
            recipe.train,
            batch_at,
            tokenizer=TOKENIZER,
            row_numbers=batches.numbers,
            evaluate=HeldOut(MODEL, lm_loss, ROWS, 8, mesh),
            finish=bias_at_the_end,
            derive=lambda values: {"twice": 2 * values["loss"]},
            tokens_at=lambda step: 160,
        )
        return dataclasses.replace(stage, model=MODEL)

    run_stage("pretrain", config, prepare)


def rows_of(folder):
    """Metrics without what the clock says."""
    return [
        {k: v for k, v in row.items() if not k.startswith(("tokens_per", "seconds_per"))}
        for row in read_metrics(folder)
    ]


def assert_rows_close(ours, theirs, atol=1e-5):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=atol)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Seed 3 by itself."""
    config = Config(run_dir=str(tmp_path_factory.mktemp("alone")), seed=3)
    train(config)
    return config


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Seeds 2 to 4 in one program, with what was compiled."""
    metrics_of.clear_cache()  # which a test before may have filled
    compiled = []

    def note(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(about.get("fun_name", ""))

    config = Config(run_dir=str(tmp_path_factory.mktemp("many")), seed=2, seeds=3)
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        train(config)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    return config, compiled


def test_a_seed_of_many_is_that_seed_alone(many, alone):
    folder = Path(many[0].run_dir) / "seeds" / "3"
    chex.assert_trees_all_close(load_params(folder), load_params(alone.run_dir), atol=1e-5)
    assert_rows_close(rows_of(folder), rows_of(alone.run_dir))
    written = [Path(f, "config.json").read_text() for f in (folder, alone.run_dir)]
    assert written[0] == written[1]


def test_all_seeds_share_one_program(many):
    """Break it: jit a step for each seed, or make the program of an evaluation anew."""
    for name in ("step_all", "init", "metrics_of"):
        assert sum(name in one for one in many[1]) == 1, (name, many[1])
    assert not any("train_step" in one for one in many[1])


def test_the_folder_of_the_whole(many):
    """Means and intervals, every seed to be used, and a report."""
    folder = Path(many[0].run_dir)
    of_seeds = [rows_of(folder / "seeds" / str(seed)) for seed in (2, 3, 4)]
    for place, row in enumerate(rows_of(folder)):
        for name in set(row) - {"step"}:
            if name in of_seeds[0][place]:
                values = [rows[place][name] for rows in of_seeds]
                assert row[name] == pytest.approx(np.mean(values), rel=1e-12)
                if name + "/ci95" in row:
                    expected = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
                    assert row[name + "/ci95"] == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert "3 seeds, 2 to 4" in (folder / "report.html").read_text()
    model, params, tokenizer = load_model(folder / "seeds" / "4")
    assert model == MODEL and tokenizer == TOKENIZER
    with pytest.raises(UserError, match="seeds 2 to 4; give one of them"):
        open_run(folder)
    with pytest.raises(UserError, match="seeds 2 to 4; give one of them"):
        load_model_files(folder)


def test_another_number_of_seeds_is_refused(many, alone, capsys):
    train(many[0])
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="seeds was 3 and is now 4"):
        train(dataclasses.replace(many[0], seeds=4))
    with pytest.raises(UserError, match="seeds was 3 and is now 1"):
        train(dataclasses.replace(many[0], seeds=1))
    with pytest.raises(UserError, match="seeds was 1 and is now 2"):
        train(dataclasses.replace(alone, seeds=2))
    with pytest.raises(UserError, match=r"leave --seeds out.*--seed 2 --run-dir .*seeds/2"):
        train(dataclasses.replace(many[0], replay=1))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "lost", [(3,), pytest.param((), marks=SLOW), pytest.param((2, 3, 4), marks=SLOW)]
)
def test_killed_and_run_again_it_ends_with_the_same_bits(many, tmp_path, lost):
    """Also where the last checkpoint was written for some of the seeds only, or for none.

    Break it: let each seed go on from its own newest checkpoint.
    """

    class Killed(Exception):
        pass

    def die(seed, number):
        if number == 3:
            raise Killed

    config = dataclasses.replace(many[0], run_dir=str(tmp_path))
    with pytest.raises(Killed):
        train(config, at=die)
    for seed in (2, 3, 4):
        Checkpoints(tmp_path / "seeds" / str(seed)).close()  # waits
        if seed in lost:
            shutil.rmtree(tmp_path / "seeds" / str(seed) / "checkpoints" / "2")
    train(config)
    for seed in (2, 3, 4):
        ours, theirs = (Path(c.run_dir) / "seeds" / str(seed) for c in (config, many[0]))
        chex.assert_trees_all_equal(load_params(ours), load_params(theirs))
        assert rows_of(ours) == rows_of(theirs)
    assert rows_of(tmp_path) == rows_of(many[0].run_dir)


def test_all_at_once(many, tmp_path, monkeypatch):
    """`vmap`, as on an accelerator, agrees to rounding."""
    monkeypatch.setattr(launch, "choose", lambda stages, mesh: ("vmap", "for this test"))
    config = dataclasses.replace(many[0], run_dir=str(tmp_path))
    train(config)
    assert_rows_close(rows_of(tmp_path / "seeds" / "3"), rows_of(Path(many[0].run_dir) / "seeds/3"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=8),
        pytest.param(MeshConfig(data=2, fsdp=2, tensor=2), marks=pytest.mark.slow),
    ],
)
def test_over_a_mesh_of_eight_devices(many, tmp_path, mesh):
    config = dataclasses.replace(many[0], run_dir=str(tmp_path), mesh=mesh)
    train(config)
    for seed in (2, 4):
        ours, theirs = (rows_of(Path(c.run_dir) / f"seeds/{seed}") for c in (config, many[0]))
        assert_rows_close(ours, theirs, atol=1e-4)


def test_a_step_on_the_host_takes_turns(many, tmp_path, capsys):
    """With the same numbers, files and folders."""
    config = dataclasses.replace(many[0], run_dir=str(tmp_path))
    train(config, step=lambda jitted: lambda *args: jitted(*args))
    assert "3 seeds in turn, since a part of each step runs on the host" in capsys.readouterr().out
    for folder in ("seeds/2", "seeds/4", "."):
        ours, theirs = (rows_of(Path(c.run_dir) / folder) for c in (config, many[0]))
        assert_rows_close(ours, theirs)
    assert (tmp_path / "finished").exists()
    write_report(tmp_path)
    train(config, step=lambda jitted: lambda *args: jitted(*args))
    assert "already finished" in capsys.readouterr().out


def test_a_seed_that_diverges_is_named(tmp_path):
    """Break it: count skipped steps over all seeds together."""

    def broken(jitted):
        @jax.jit
        def step(state, batch, frozen):
            state, metrics = jitted(state, batch, frozen)
            return state, metrics | {"skipped": (1.0 * (state.seed == 3), 1.0)}

        return step

    config = Config(run_dir=str(tmp_path), seed=2, seeds=3)
    recipe = dataclasses.replace(Recipe().train, most_skipped=2)
    config = dataclasses.replace(config, pretrain=Recipe(train=recipe))
    with pytest.raises(UserError, match=r"pretrain, seed 3: steps 1 to 2 .*--run-dir .*seeds/3"):
        train(config, step=broken)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Started(Config):
    init_from: str = "hf:some/model"
    labels_from: tuple[str, ...] = ()


def test_each_seed_starts_from_its_own(many, alone):
    base = Started(run_dir="x", seed=2, seeds=2, init_from=many[0].run_dir)
    first, second = configs_of(dataclasses.replace(base, labels_from=(alone.run_dir,)))
    assert second.init_from == str(Path(many[0].run_dir) / "seeds" / "3")
    assert (first.seed, first.seeds, first.run_dir) == (2, 1, str(Path("x/seeds/2")))
    assert first.labels_from == (alone.run_dir,)
    with pytest.raises(UserError, match="has the seeds 2 to 4, and not 5"):
        configs_of(dataclasses.replace(base, seed=4))
    foreign = configs_of(dataclasses.replace(base, init_from="hf:some/model"))
    assert {one.init_from for one in foreign} == {"hf:some/model"}


def test_on_an_accelerator_it_is_what_fits(monkeypatch):
    """All at once, else one after the other, else in turn."""
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 100 * 2**30})
    mesh = SimpleNamespace(devices=np.array([device]))
    monkeypatch.setattr(vectorized, "platform", lambda: "gpu")
    for needs, how, said in (
        ({"vmap": 50}, "vmap", "all at once, with 50.0 GiB of 100.0 GiB"),
        ({"vmap": 200, "map": 60}, "map", "since all at once would need 200.0 GiB"),
        ({"vmap": 200, "map": 150}, None, "together they would need 150.0 GiB of 100.0 GiB"),
    ):
        monkeypatch.setattr(
            vectorized, "bytes_needed", lambda stages, mesh, how, n=needs: n[how] * 2**30
        )
        found, reason = vectorized.choose([], mesh)
        assert found == how and said in reason


def test_the_memory_of_a_step_is_known_before_it_runs():
    functions = gradient_functions(
        MODEL,
        lm_loss,
        OptimizerConfig(),
        TrainConfig(steps=4),
        lambda seed: init(MODEL, keys.derive(seed, 0, "init")),
    )
    batches = pipeline.make_batch_at(ROWS, 8, 0)
    stages = [tiny.stage(functions, TrainConfig(steps=4), batches)] * 3
    mesh = make_mesh(MeshConfig(data=1))
    state = jax.eval_shape(functions.init, np.uint32(0))
    least = 3 * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    with jax.set_mesh(mesh):
        needed = vectorized.bytes_needed(stages, mesh, "map")
    assert least < needed < 20 * least


def test_what_is_frozen_lies_there_once():
    """The reference is each seed's own, the reward model that of all. Break it: stack both."""

    def stage(seed):
        frozen = {"reference": np.full((2,), seed), "reward": np.ones((3,))}
        load = lambda mesh: Parameters((seed,), jax.tree.map(jax.numpy.asarray, frozen))  # noqa: E731
        return tiny.stage(None, TrainConfig(steps=1), None, load=load)

    origins, frozen = load_all([stage(0.0), stage(1.0)], same=False, mesh=None)
    assert origins == [(0.0,), (1.0,)] and frozen.own["reference"].shape == (2, 2)
    assert list(frozen.common) == ["reward"] and frozen.common["reward"].shape == (3,)
    assert frozen.of(1)["reference"].tolist() == [1.0, 1.0]

    @jax.jit
    def step(state, batch, frozen):
        return state + batch + frozen["reference"].sum() + frozen["reward"].sum(), {}

    for how in ("map", "vmap"):
        state, _ = step_of_all(step, how)(np.zeros(2), (1.0, 2.0), frozen)
        assert state.tolist() == [4.0, 7.0]
    _, frozen = load_all([stage(0.0), stage(1.0)], same=True, mesh=None)
    assert not frozen.own and isinstance(frozen, Frozen)
