"""Running a stage: the one place in which data, state, loop and run folder meet."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax import files
from gpt_jax.data import pipeline
from gpt_jax.data.config import DataConfig
from gpt_jax.data.left_out import LeftOut
from gpt_jax.errors import UserError
from gpt_jax.parallel import distributed, rules
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.train import state as states
from gpt_jax.train.adapters import write_adapter_file
from gpt_jax.train.checkpoint import save_model_files
from gpt_jax.train.command import Common
from gpt_jax.train.inputs import record_inputs
from gpt_jax.train.loop import fit
from gpt_jax.train.run import Run, finish, is_finished
from gpt_jax.train.seeds_run import (
    SeedsRun,
    are_finished,
    configs_of,
    in_turn,
    start_alike,
)
from gpt_jax.train.stage import Stage
from gpt_jax.train.step import Step
from gpt_jax.train.vectorized import choose, load_all, vectorized, why_in_turn


def look_at(stage: Stage, seed: int, mesh: Mesh) -> None:
    """Traces all that a stage computes on the shapes it will have: what cannot work ends here.

    Raises:
      UserError: as the first step would, if a batch, a model or a length does not fit.
    """
    (init, step, axes), (origin, frozen) = stage.functions, stage.shapes
    with jax.set_mesh(mesh):
        state = states.abstract(init, np.uint32(seed), *origin, mesh=mesh, axes=axes)
        rules.shardings(frozen, mesh, axes)
        batch = pipeline.shapes(stage.batch_at(0), mesh)
        step_shapes(step, state, batch, frozen)
        if stage.evaluate:
            stage.evaluate.look(state, frozen)
        if stage.samples:
            stage.samples.look(state.params)


def step_shapes(step: Step, state: Any, batch: Any, frozen: Any) -> tuple[Any, Any]:
    """(state, metrics) after a step, as shapes; a step that is no single program says how."""
    shapes = getattr(step, "shapes", None) or functools.partial(jax.eval_shape, step)
    return shapes(state, batch, frozen)


def save_data_file(
    folder: Path,
    name: str,
    data: DataConfig,
    kinds: Sequence[str],
    left_out: LeftOut,
    longest: int | None = None,
) -> None:
    """Says what was left out of a stage's data, and writes `data.json` if there is anything.

    What was left out when files were read has been said then.

    Args:
      folder: of the stage.
      name: of it.
      data: the sources.
      kinds: which of them it reads.
      left_out: what was cut or left out when their rows were laid out.
      longest: the most tokens of a row, where that is to be known later.
    """
    for sentence in left_out.sentences():
        distributed.say(f"{name}: {sentence}")
    read = [
        {"what": f"{reason}, of the {kind}", "count": count}
        for kind in kinds
        for reason, count in data.left_out(kind).items()
    ]
    facts = {"left_out": read + left_out.entries(), "longest": longest}
    if any(facts.values()):
        text = json.dumps(facts, indent=2) + "\n"
        distributed.on_main(lambda: files.write_text(folder / "data.json", text))


Prepare = Callable[[Any, Mesh], Stage]  # prepare(config, mesh), pure


def run_stage(name: str, config: Common, prepare: Prepare) -> None:
    """Runs a stage in `config.run_dir`, or goes on with it, or says that it is finished.

    Args:
      name: of the stage, as in the table of stages.
      config: of the experiment.
      prepare: `(config, mesh) -> Stage`; called only if there is something to do, and for every
        one of many seeds, whose configurations differ in `seed` and in the folders.
    """
    if config.sweep:
        raise UserError("a sweep is run by gpt_jax.train.sweep.run_sweep(main, config)")
    if config.seeds > 1:
        return run_seeds(name, config, prepare)
    if not config.replay and is_finished(name, config):
        return
    mesh = make_mesh(config.mesh)
    stage = prepare(config, mesh)
    if config.replay and config.replay > stage.train.steps:
        raise UserError(
            f"--replay {config.replay}: {name} has only {stage.train.steps} steps; give one of them"
        )
    look_at(stage, config.seed, mesh)
    with Run(name, config) as run:
        _describe(run, name, config, stage)
        origin, frozen = stage.load(mesh)
        state = run.restore_or_create(
            stage.functions.init,
            np.uint32(config.seed),
            *origin,
            mesh=mesh,
            axes=stage.functions.axes,
        )
        del origin
        fit(run, stage, state, frozen, mesh)


def _describe(run: Run, name: str, config: Common, stage: Stage) -> None:
    """Writes what a run folder says of what it was made from, and of its model."""
    record_inputs(run.folder, config)
    save_model_files(run.folder, stage.model, stage.tokenizer)
    if adapters := stage.adapter_file():
        write_adapter_file(run.folder, adapters)
    save_data_file(run.folder, name, config.data, stage.kinds, stage.left_out, stage.longest)


def run_seeds(name: str, config: Common, prepare: Prepare) -> None:
    """The same of `config.seeds` seeds: all of them in one program, or, where that cannot be, in
    turn; says which."""
    if are_finished(name, config):
        return
    configs = configs_of(config)
    mesh = make_mesh(config.mesh)
    with contextlib.redirect_stdout(distributed.SaidOnce(sys.stdout)):
        stages = [prepare(of_seed, mesh) for of_seed in configs]
    look_at(stages[0], config.seed, mesh)
    with jax.set_mesh(mesh):
        why = why_in_turn(stages)
        how, reason = (None, why) if why else choose(stages, mesh)
    said = f"{name}: {config.seeds} seeds"
    if how is None:
        distributed.say(f"{said} in turn, since {reason}")
        made = dict(zip((of_seed.seed for of_seed in configs), stages, strict=True))
        in_turn(name, config, lambda c: run_stage(name, c, lambda c, mesh: made.pop(c.seed)))
        return finish(Path(config.run_dir))
    distributed.say(f"{said} in one program: {reason}")
    with SeedsRun(name, config) as run:
        with contextlib.redirect_stdout(distributed.SaidOnce(sys.stdout)):
            for of_seed, stage, one in zip(configs, stages, run.runs, strict=True):
                _describe(one, name, of_seed, stage)
        origins, frozen = load_all(stages, start_alike(configs), mesh)
        functions = stages[0].functions
        state = run.restore_or_create(functions.init, origins, mesh=mesh, axes=functions.axes)
        del origins
        fit(run, vectorized(stages, how), state, frozen, mesh)
