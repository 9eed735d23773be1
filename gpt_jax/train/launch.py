"""Running a stage: the one place in which data, state, loop and run folder meet."""

from __future__ import annotations

import functools
import json
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
from gpt_jax.train.run import Run, is_finished
from gpt_jax.train.stage import Stage
from gpt_jax.train.step import Step


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


def run_stage(name: str, config: Common, prepare: Callable[[Mesh], Stage]) -> None:
    """Runs a stage in `config.run_dir`, or goes on with it, or says that it is finished.

    Args:
      name: of the stage, as in the table of stages.
      config: of the experiment.
      prepare: `mesh -> Stage`; called only if there is something to do.
    """
    if not config.replay and is_finished(name, config):
        return
    mesh = make_mesh(config.mesh)
    stage = prepare(mesh)
    if config.replay and config.replay > stage.train.steps:
        raise UserError(
            f"--replay {config.replay}: {name} has only {stage.train.steps} steps; give one of them"
        )
    look_at(stage, config.seed, mesh)
    with Run(name, config) as run:
        record_inputs(run.folder, config)
        save_model_files(run.folder, stage.model, stage.tokenizer)
        if adapters := stage.adapter_file():
            write_adapter_file(run.folder, adapters)
        save_data_file(run.folder, name, config.data, stage.kinds, stage.left_out, stage.longest)
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
