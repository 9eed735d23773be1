"""Sweeps: what is refused before anything runs, what a folder holds, and going on with it."""

import dataclasses
import json
from typing import Literal

import jax
import pytest

from experiments import ppo, rlhf
from gpt_jax.errors import UserError
from gpt_jax.report.sweep import charts, read_sweep, sweep_table
from gpt_jax.report.table import to_markdown
from gpt_jax.train import command
from gpt_jax.train.sweep import points_of, run_sweep, settings_of, with_settings
from tests.train.test_vectorized import Config, train


def points(*specs, config=None):
    return points_of(dataclasses.replace(config or ppo.smoke(), sweep=specs, run_dir="runs/x"))


def test_a_grid_in_the_order_given():
    found = points("ppo.kl-coef=0.01,0.2", "ppo.optimizer.learning_rate=1e-4,3e-4")
    assert [p.name for p in found][:2] == [
        "ppo.kl_coef=0.01,ppo.optimizer.learning_rate=1e-4",
        "ppo.kl_coef=0.01,ppo.optimizer.learning_rate=3e-4",
    ]
    last = found[-1]
    assert last.settings == {"ppo.kl_coef": 0.2, "ppo.optimizer.learning_rate": 3e-4}
    assert last.config.ppo.kl_coef == 0.2 and last.config.ppo.optimizer.learning_rate == 3e-4
    assert last.config.ppo.optimizer.eps == ppo.smoke().ppo.optimizer.eps
    assert last.config.sweep == () and last.config.run_dir == f"runs/x/{last.name}"
    # Settings that only fit together are checked when all are set.
    assert len(points("ppo.episodes=6", "ppo.minibatches=3")) == 1
    assert points("ppo.value_init=reward,zero")[1].config.ppo.value_init == "zero"
    assert points("ppo.missing_stop_score=None,-2")[0].config.ppo.missing_stop_score is None
    assert points("ppo.offload_frozen=true,false")[0].config.ppo.offload_frozen is True
    assert points("seed=3,4")[1].config.seed == 4
    assert "/" not in points("data.prompts=a/b.jsonl")[0].name


@pytest.mark.parametrize(
    ("specs", "sentence"),
    [
        (["ppo.kl_coeff=1"], r"no setting ppo\.kl_coeff; the nearest is ppo\.kl_coef$"),
        (["kl_coef=1"], r"the nearest is ppo\.kl_coef$"),
        (["ppo.learning_rate=1"], r"the nearest is ppo\.optimizer\.learning_rate$"),
        (["ppo.optimizer=1"], r"no setting ppo\.optimizer; the nearest is"),
        (["ppo.epochs=1,two"], r"'two' is no value of ppo\.epochs; give a whole number"),
        (["ppo.kl_coef=0.1,-1"], r"kl_coef is -1\.0, but must be at least 0"),
        (["ppo.kl_coef=0.1,nan"], r"kl_coef is nan"),
        (["ppo.value_init=reward,one"], r"'one' is no value of .*; give reward or zero"),
        (["ppo.minibatches=3"], r"3 minibatches do not divide 8 episodes"),
        (["ppo.kl_coef"], r"give SETTING=VALUE,VALUE"),
        (["ppo.kl_coef="], r"give SETTING=VALUE,VALUE"),
        (["ppo.kl_coef=1,,2"], r"give SETTING=VALUE,VALUE"),
        (["ppo.kl_coef=1,1"], r"a value twice"),
        (["ppo.kl_coef=1", "ppo.kl-coef=2"], r"a setting twice"),
        (["run_dir=a,b"], r"run_dir is the same for all points"),
        (["seeds=1,2"], r"seeds is the same for all points"),
        (["sweep=a"], r"sweep is the same for all points"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(specs, sentence):
    with pytest.raises(UserError, match=rf"^--sweep .*{sentence}"):
        points(*specs)


def test_the_command_line_takes_many():
    arguments = ["--preset=smoke", "--sweep", "ppo.epochs=1,4", "--sweep", "ppo.kl_coef=0,1"]
    config = command.parse([*arguments, "--seeds=3"], ppo.presets, "")
    assert config.sweep == ("ppo.epochs=1,4", "ppo.kl_coef=0,1") and config.seeds == 3
    assert len(points_of(config)) == 4
    assert len({name for name, _ in settings_of(rlhf.presets["smoke"]())}) > 60


@dataclasses.dataclass(frozen=True)
class Inner:
    a: int = 1
    kind: Literal["x", "y"] = "x"


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    b: float = 2.0


def test_settings_are_set_where_they_are():
    changed = with_settings(Outer(), {"inner.kind": "y", "b": 3.0, "inner.a": 5})
    assert changed == Outer(Inner(5, "y"), 3.0)


@pytest.fixture
def every_program_is_cached(tmp_path):
    """As at the command line, with an empty cache."""
    before = {
        name: getattr(jax.config, name)
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    }
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "xla"))
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    command.compilation_cache_for_all()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


@pytest.mark.slow
def test_a_sweep_shares_programs_and_goes_on(tmp_path, capsys, every_program_is_cached):
    """Learning rates are in the state: the second one compiles nothing. A point that fails leaves
    the others, a second call runs it alone.

    Break it: let the step take its learning rate from the configuration.
    """
    compiled, fails = [], [0.02]

    def note(event, **about):
        if event == "/jax/compilation_cache/cache_misses":
            compiled.append(about)

    def main(config):
        before = len(compiled)
        if config.pretrain.optimizer.learning_rate in fails:
            raise ValueError("out of luck")
        train(config)
        made.append(len(compiled) - before)

    made = []
    sweep = ("pretrain.optimizer.learning_rate=0.005,0.01,0.02",)
    config = Config(run_dir=str(tmp_path / "run"), seeds=2, sweep=sweep)
    jax.monitoring.register_event_listener(note)
    try:
        with pytest.raises(UserError, match=r"1 of 3 points failed.*0\.02\)"):
            run_sweep(main, config)
    finally:
        jax.monitoring.unregister_event_listener(note)
    # The second point makes its first state with another rate, which is a program of its own.
    assert made[0] >= 4 and made[1] <= 1, (made, compiled)
    said = capsys.readouterr().out
    assert "point 2 of 3, pretrain.optimizer.learning_rate=0.01; about" in said
    folder = tmp_path / "run"
    done, better, failed = read_sweep(folder)
    assert failed.failed == "ValueError: out of luck" and not failed.values
    assert "failed" in to_markdown(sweep_table([done, better, failed]))
    mean, low, high = done.values["eval/loss"]
    assert low < mean < high
    assert "out of luck" in (folder / "report.html").read_text()
    assert set(charts([done, better, failed])) == set(done.values)

    fails.clear()
    run_sweep(main, config)
    said = capsys.readouterr().out
    assert said.count("already finished") == 2 and "failed" not in said
    assert all(point.values for point in read_sweep(folder))
    # Another value may be added, another configuration may not.
    wider = dataclasses.replace(config, sweep=(f"{sweep[0]},0.04",))
    assert len(points_of(wider)) == 4
    with pytest.raises(UserError, match="seeds was 2 and is now 3"):
        run_sweep(main, dataclasses.replace(config, seeds=3))
    written = json.loads((folder / "sweep.json").read_text())["points"]
    assert [point["failed"] for point in written] == [None] * 3


def test_a_run_is_no_sweep(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    config = Config(run_dir=str(tmp_path), sweep=("seed=1,2",))
    with pytest.raises(UserError, match="is a run, and no sweep"):
        run_sweep(train, config)
