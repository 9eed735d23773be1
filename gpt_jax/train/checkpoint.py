"""Asynchronous checkpoints with exact resume, through Orbax.

Each checkpoint has two items: `params` (what the next stage, the sampler and the chat need) and
`rest` (optimizer moments, counters). Orbax writes to a temporary name and renames when all is on
disk, so a killed run leaves either a whole checkpoint or none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.parallel import rules
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.state import TrainState

KEEP = 2  # the newest checkpoint and one to fall back on


class Checkpoints:
    """The checkpoints of one stage, in `folder/checkpoints/<step>/`."""

    def __init__(self, folder: Path):
        self.folder = Path(folder).resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Copies the state off the devices, then writes in the background."""
        params, rest = _split(state)
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(params), rest=ocp.args.StandardSave(rest)
        )
        self._manager.save(step, args=items)

    def restore(self, target: TrainState) -> TrainState:
        """The newest checkpoint, laid out as `target` (ShapeDtypeStructs with shardings) says."""
        step = self._manager.latest_step()
        params, rest = _split(target)
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(params), rest=ocp.args.StandardRestore(rest)
        )
        older = [s for s in self._manager.all_steps() if s != step]
        with _naming(self.folder / str(step), older):
            restored = self._manager.restore(step, args=items)
        return dataclasses.replace(target, params=restored.params, **restored.rest)

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _split(state: TrainState) -> tuple[dict, dict]:
    rest = {"step": state.step, "opt_state": state.opt_state, "extras": state.extras}
    return state.params, rest


@contextlib.contextmanager
def _naming(checkpoint: Path, older: list[int]) -> Iterator[None]:
    """Turns whatever is raised while a checkpoint is read into one sentence that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds; each means "unreadable"
        then = f"go on from step {max(older)}" if older else "train that stage again"
        cause = (str(error).strip().splitlines() or [repr(error)])[0][:160]
        raise UserError(
            f"{checkpoint}: this checkpoint cannot be read ({cause}); move it away and run again "
            f"to {then}"
        ) from error


def load_params(folder: str | Path, mesh: Mesh | None = None) -> dict:
    """The parameters of a stage's newest checkpoint.

    Args:
      folder: the stage's folder, say `runs/rlhf/tiny/sft`.
      mesh: where to put them, by the sharding rules; None: whole, on the first device.

    Raises:
      UserError: if there is no checkpoint, or it cannot be read.
    """
    path = Path(folder).resolve() / "checkpoints"
    steps = ocp.utils.checkpoint_steps(path) if path.is_dir() else []
    if not steps:
        raise UserError(f"{folder}: there is no checkpoint here; run that stage first")
    item = epath.Path(path) / str(max(steps)) / "params"
    handler = ocp.StandardCheckpointHandler()
    with contextlib.closing(handler), _naming(item.parent, older=[]):
        shapes = jax.tree.map(_struct, handler.metadata(item).tree)
        if mesh is None:
            whole = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            placed = jax.tree.map(lambda _: whole, shapes)
        else:
            placed = rules.shardings(shapes, mesh)
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            placed,
        )
        return handler.restore(item, args=ocp.args.StandardRestore(target))


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def save_model_files(folder: Path, model: ModelConfig, tokenizer: Tokenizer) -> None:
    """Writes `model.json` and `tokenizer.json`: all that using a checkpoint needs beside it."""
    (folder / "model.json").write_text(json.dumps(dataclasses.asdict(model), indent=2) + "\n")
    tokenizer.save(folder / "tokenizer.json")


def load_model_files(folder: str | Path) -> tuple[ModelConfig, Tokenizer]:
    """Reads what `save_model_files` wrote; a UserError if the folder is not a finished stage's."""
    path = Path(folder) / "model.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: there is no model here (no model.json); give a stage's run folder"
        )
    try:
        model = ModelConfig(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not a model description ({error}); restore or retrain it"
        ) from error
    return model, Tokenizer.load(Path(folder) / "tokenizer.json")


def load_model(folder: str | Path, mesh: Mesh | None = None) -> tuple[ModelConfig, dict, Tokenizer]:
    """A language model ready to sample from: shape, parameters and tokenizer of a stage's folder.

    Of a PPO stage it is the policy (its moving average if one was kept).
    """
    model, tokenizer = load_model_files(folder)
    params = load_params(folder, mesh)
    if "policy" in params:
        params = params.get("ema", params["policy"])
    return model, params, tokenizer
