"""Asynchronous checkpoints with exact resume, through Orbax.

Each checkpoint has these items: `params` (what the next stage, the sampler and the chat need),
`average` (of the policy, if one was kept), `rest` (optimizer moments, counters) and `checksums` of
all arrays, since the file format checks its indexes but not what they point to. Orbax writes to a
temporary name and renames when all is on disk, so a killed run leaves either a whole checkpoint or
none. Of many processes each writes what its own devices hold. Orbax takes long to import: the
functions that use it do so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gpt_jax import files, seeds
from gpt_jax.errors import UserError
from gpt_jax.models.contract import Model, model_types
from gpt_jax.models.heads import axes_of, is_head
from gpt_jax.models.lora import adapted_shapes
from gpt_jax.parallel import distributed, rules
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.adapters import read_adapter_file
from gpt_jax.train.state import TrainState

KEEP = 2  # the newest checkpoint and one to fall back on


class Checkpoints:
    """The checkpoints of one stage, in `folder/checkpoints/<step>/`."""

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp

        self.folder = Path(folder).resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, enable_async_checkpointing=True)
        with self._writing():
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def steps(self) -> list[int]:
        """Of all whole checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, which are going to be written again."""
        for later in self.steps():
            if later > step:
                with self._writing():
                    self._manager.delete(later)

    def newest(self) -> Path | None:
        """The folder of the newest whole checkpoint, once what is being written is on disk."""
        with self._writing():
            self._manager.wait_until_finished()
        steps = self.steps()
        return self.folder / str(steps[-1]) if steps else None

    def save(self, step: int, state: TrainState) -> None:
        """Copies the state off the devices, then writes in the background."""
        import orbax.checkpoint as ocp

        parts = _split(state)
        items = ocp.args.Composite(
            checksums=ocp.args.JsonSave({name: checksums(part) for name, part in parts.items()}),
            **{name: ocp.args.StandardSave(part) for name, part in parts.items()},
        )
        with self._writing():
            self._manager.save(step, args=items)

    def restore(self, step: int, target: TrainState) -> TrainState:
        """The checkpoint of a step, laid out as `target` (ShapeDtypeStructs with shardings) says.

        Raises:
          UserError: if it cannot be read, or what is read is not what was written.
        """
        import orbax.checkpoint as ocp

        parts = _split(target)
        items = ocp.args.Composite(
            checksums=ocp.args.JsonRestore(),
            **{name: ocp.args.StandardRestore(part) for name, part in parts.items()},
        )
        older = [s for s in self.steps() if s < step]
        with _naming(self.folder / str(step), older):
            restored = self._manager.restore(step, args=items)
            for name in parts:
                _verify(restored[name], restored.checksums[name])
        average = {"average": restored["average"]} if "average" in parts else {}
        rest = dict(restored.rest)
        extras = rest.pop("extras") | average
        return dataclasses.replace(target, params=restored.params, extras=extras, **rest)

    def close(self) -> None:
        """Waits until everything is on disk."""
        with self._writing():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns whatever is raised while checkpoints are written into one sentence."""
        try:
            yield
        except Exception as error:  # here too Orbax and TensorStore raise many kinds
            raise UserError(
                f"{self.folder}: a checkpoint could not be written ({_cause(error)}); the older "
                "ones are untouched: make room or choose another folder, then run the same "
                "command again"
            ) from error


def _split(state: TrainState) -> dict[str, Any]:
    """The items of a checkpoint; an average of the policy is one, since it is what is used."""
    extras = dict(state.extras)
    average = {"average": extras.pop("average")} if "average" in extras else {}
    counters = {"step": state.step, "seed": state.seed, "opt_state": state.opt_state}
    return {"params": state.params, "rest": counters | {"extras": extras}} | average


def checksums(tree: Any) -> dict[str, int]:
    """A number for every array that changes if any of its bits does: {path: uint32}.

    The sum of the array's words, each times an odd number that tells its place. Integers wrap
    around, so the sum is the same on any mesh, and the devices that hold the array compute it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = distributed.fetch(_sums([leaf for _, leaf in leaves]))
    return {rules.path_name(path): int(x) for (path, _), x in zip(leaves, sums, strict=True)}


@jax.jit
def _sums(arrays: list[jax.Array]) -> jax.Array:
    def one(x: jax.Array) -> jax.Array:
        words = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            place = place * size + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)

    return jnp.stack([one(x) for x in arrays])


def _verify(tree: Any, written: dict[str, int]) -> None:
    """Raises a ValueError that names the first array which is not as it was written."""
    for name, number in checksums(tree).items():
        if number != written[name]:
            raise ValueError(f"{name} is not what was written: its checksum differs")


@contextlib.contextmanager
def _naming(checkpoint: Path, older: list[int]) -> Iterator[None]:
    """Turns whatever is raised while a checkpoint is read into one sentence that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds; each means "unreadable"
        then = f"go on from step {max(older)}" if older else "train that stage again"
        raise UserError(
            f"{checkpoint}: this checkpoint cannot be read ({_cause(error)}); move it away and run "
            f"again to {then}"
        ) from error


def _cause(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:160]


def load_params(
    folder: str | Path,
    mesh: Mesh | None = None,
    item: str = "params",
    *,
    part: str = "",
    axes: rules.Axes | None = None,
) -> dict:
    """The parameters of a stage's newest checkpoint, as they lie there: where a stage learned
    adapters, these alone (`origin.load_params` puts them on their backbone).

    Args:
      folder: the stage's folder, say `runs/rlhf/tiny/sft`.
      mesh: where to put them; None: whole, on the first device.
      item: "params" or "average".
      part: the only one of its parts to be read, if it has it: of a PPO stage its "policy".
      axes: their logical axes, for the mesh; None: those of the folder's model and its head.

    Raises:
      UserError: if there is no checkpoint, or it cannot be read.
    """
    import orbax.checkpoint as ocp
    from etils import epath

    newest = epath.Path(newest_checkpoint(folder))
    if mesh is not None and axes is None:
        axes = axes_of(load_model_files(folder).model)
    steps = ocp.utils.checkpoint_steps(newest.parent)
    handler = ocp.PyTreeCheckpointHandler()
    with contextlib.closing(handler), _naming(newest, older=sorted(steps)[:-1]):
        shapes = jax.tree.map(_struct, handler.metadata(newest / item).tree)
        if part in shapes:
            shapes = {part: shapes[part]}
        if mesh is None:
            whole = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            placed = jax.tree.map(lambda _: whole, shapes)
        else:
            placed = rules.shardings(shapes, mesh, axes)
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            placed,
        )
        how = ocp.checkpoint_utils.construct_restore_args(target)
        params = handler.restore(
            newest / item,
            args=ocp.args.PyTreeRestore(target, restore_args=how, partial_restore=True),
        )
        _verify(params, ocp.JsonCheckpointHandler().restore(newest / "checksums")[item])
        return params.get(part, params)


def newest_checkpoint(folder: str | Path) -> Path:
    """The folder of a stage's newest checkpoint; a UserError if it has none."""
    import orbax.checkpoint as ocp

    path = Path(folder).resolve() / "checkpoints"
    steps = ocp.utils.checkpoint_steps(path) if path.is_dir() else []
    if not steps:
        raise UserError(f"{folder}: there is no checkpoint here; run that stage first")
    return path / str(max(steps))


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def save_model_files(folder: Path, model: Model, tokenizer: Tokenizer) -> None:
    """Writes `model.json` and the tokenizer: all that using a checkpoint needs beside it."""

    def write() -> None:
        fields = {"type": type(model).__name__} | dataclasses.asdict(model)
        text = json.dumps(fields, indent=2) + "\n"
        files.write_text(folder / "model.json", text)
        tokenizer.save(folder)

    distributed.on_main(write)


class ModelFiles(NamedTuple):
    """What a stage needs of another's folder before any parameters are loaded."""

    model: Model
    tokenizer: Tokenizer


def load_model_files(
    folder: str | Path, shapes: Callable[[Model], Any] | None = None
) -> ModelFiles:
    """Reads what `save_model_files` wrote.

    Args:
      folder: of a stage.
      shapes: `model -> parameters` as ShapeDtypeStructs, of what must lie there: a language model
        (`param_shapes`) or a scorer (`scorer_shapes`). None: only the two files are looked at.

    Raises:
      UserError: if the folder is not a stage's, has a type of model that nobody has defined, more
        tokens than the model, or the parameters of anything else.
    """
    path = Path(folder) / "model.json"
    seeds.refuse_many(folder)
    if not path.is_file():
        raise UserError(
            f"{folder}: there is no model here (no model.json); give a stage's run folder"
        )
    fields = files.read_json(path, "restore or retrain it")
    try:
        kind = fields.pop("type")
        model = model_types()[kind](**fields) if kind in model_types() else None
    except (UserError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not a model description ({error}); restore or retrain it"
        ) from error
    if model is None:
        raise UserError(
            f"{path}: a model of type {kind} is not known here; import the file that defines it"
        )
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > model.vocab_size:
        raise UserError(
            f"{folder}: its tokenizer.json has {tokenizer.vocab_size} tokens, its model.json only "
            f"{model.vocab_size}; restore the one that was made with the other"
        )
    if shapes is not None:
        wanted, adapters = shapes(model), read_adapter_file(folder)
        if adapters is not None:
            wanted = adapted_shapes(adapters.lora, model, wanted)
        _compare_shapes(folder, wanted)
    return ModelFiles(model, tokenizer)


def _kind(names: Iterable[str]) -> str:
    """What the parameters of these names are, for people."""
    if any(name.startswith("policy/") for name in names):
        return "PPO's policy and value model"
    return "a reward model" if any(map(is_head, names)) else "a language model"


def param_shapes_in(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the parameters in a stage's folder; nothing is read but the metadata."""
    import orbax.checkpoint as ocp
    from etils import epath

    newest = newest_checkpoint(folder)
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler, _naming(newest, []):
        return _shapes_by_name(handler.metadata(epath.Path(newest) / "params").tree)


def _shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {rules.path_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _compare_shapes(folder: str | Path, wanted: Any) -> None:
    """Raises a UserError if a folder's parameters are not of the kind and the shapes wanted."""
    there, wanted = param_shapes_in(folder), _shapes_by_name(wanted)
    if there.keys() != wanted.keys():
        raise UserError(
            f"{folder} holds {_kind(there)}, where {_kind(wanted)} is needed; give another stage's "
            "folder"
        )
    for name, shape in wanted.items():
        if there[name] != shape:
            raise UserError(
                f"{folder}: {name} has the shape {there[name]}, but by its model.json {shape}; "
                "restore the file that was made with it"
            )
