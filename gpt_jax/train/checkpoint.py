"""Asynchronous checkpoints with exact resume, through Orbax.

Each checkpoint has two items: `params` (what the next stage, the sampler and the chat need) and
`rest` (optimizer moments, counters). Orbax writes to a temporary name and renames when all is on
disk, so a killed run leaves either a whole checkpoint or none.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
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
        restored = _read(self._manager, self.folder, step, items)
        return dataclasses.replace(target, params=restored.params, **restored.rest)

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _split(state: TrainState) -> tuple[dict, dict]:
    rest = {"step": state.step, "opt_state": state.opt_state, "extras": state.extras}
    return state.params, rest


def _read(manager: ocp.CheckpointManager, folder: Path, step: int, items: Any) -> Any:
    try:
        return manager.restore(step, args=items)
    except Exception as error:  # Orbax and TensorStore raise many kinds; each means "unreadable"
        others = sorted(s for s in manager.all_steps() if s != step)
        mend = (
            f"move {folder / str(step)} away and run again to go on from step {others[-1]}"
            if others
            else f"move {folder} away and run the stage again"
        )
        cause = str(error).strip().splitlines()[0][:160] if str(error).strip() else repr(error)
        raise UserError(f"{folder / str(step)}: this checkpoint cannot be read ({cause}); {mend}") from error


def load_params(folder: str | Path, mesh: Mesh | None = None) -> dict:
    """The parameters of a stage's newest checkpoint.

    Args:
      folder: the stage's folder, say `runs/rlhf/tiny/sft`.
      mesh: where to put them, by the sharding rules; None: whole, on the first device.

    Raises:
      UserError: if there is no checkpoint, or it cannot be read.
    """
    path = Path(folder).resolve() / "checkpoints"
    if not path.is_dir():
        raise UserError(f"{folder}: there is no checkpoint here; run that stage first")
    with ocp.CheckpointManager(path, item_names=("params", "rest")) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"{folder}: there is no checkpoint here; run that stage first")
        try:
            shapes = manager.item_metadata(step).params.tree
        except Exception as error:
            raise UserError(
                f"{path / str(step)}: this checkpoint cannot be read (its metadata is damaged); "
                f"move it away and run the stage again"
            ) from error
        if mesh is None:
            single = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            placed = jax.tree.map(lambda _: single, shapes)
        else:
            placed = rules.shardings(jax.tree.map(_struct, shapes), mesh)
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            placed,
        )
        items = ocp.args.Composite(params=ocp.args.StandardRestore(target))
        return _read(manager, path, step, items).params


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def save_model_files(folder: Path, model: ModelConfig, tokenizer: Tokenizer) -> None:
    """Writes `model.json` and `tokenizer.json`: with the checkpoint, all that is needed to use it."""
    (folder / "model.json").write_text(json.dumps(dataclasses.asdict(model), indent=2) + "\n")
    tokenizer.save(folder / "tokenizer.json")


def load_model_files(folder: str | Path) -> tuple[ModelConfig, Tokenizer]:
    """Reads what `save_model_files` wrote; a UserError if the folder is not a finished stage's."""
    path = Path(folder) / "model.json"
    if not path.is_file():
        raise UserError(f"{folder}: there is no model here (no model.json); give a stage's run folder")
    try:
        model = ModelConfig(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a model description ({error}); restore or retrain it") from error
    return model, Tokenizer.load(Path(folder) / "tokenizer.json")


def load_model(
    folder: str | Path, mesh: Mesh | None = None
) -> tuple[ModelConfig, dict, Tokenizer]:
    """A language model ready to sample from: shape, parameters and tokenizer of a stage's folder.

    Of a PPO stage it is the policy (its moving average if one was kept).
    """
    model, tokenizer = load_model_files(folder)
    params = load_params(folder, mesh)
    if "policy" in params:
        params = params.get("ema", params["policy"])
    return model, params, tokenizer
