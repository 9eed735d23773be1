"""Our parameters of a checkpoint's tensors, slice by slice, on the devices that hold them.

Every process reads only the slices of its own devices, one after the other: of a stack over layers
the same slice of every layer's tensor. Above what it keeps it holds one slice of one parameter.
"""

import functools
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Params, logical_axes, param_shapes
from gpt_jax.models.foreign import copies
from gpt_jax.models.foreign.tensors import SCORE, Entry
from gpt_jax.models.quantized import BLOCK, Quantized, block_axis, quantize_array
from gpt_jax.parallel import rules

Dtype = Literal["float32", "bfloat16", "int8", "int4"]
Index = tuple[slice, ...]

# Tensors that some files have beside the parameters, with the reason why they are not needed.
HARMLESS = {
    r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias": "the causal mask, and what hides a score",
    r"(gpt_neox\.)?layers\.\d+\.attention\.(masked_)?bias": "the same",
    r"(\w+\.)?layers\.\d+\.\w+\.rotary_emb\.inv_freq": "follows from rope_theta",
    r"rope_freqs\.weight": "llama.cpp's scaling of frequencies, which the configuration says",
    r"(bert\.)?embeddings\.position_ids": "0, 1, 2 and so on",
    r"(bert\.)?pooler\.dense\.(weight|bias)": "of pairs of sentences; no embedding uses it",
    r"cls\.(predictions|seq_relationship)\..+": "BERT's heads of pretraining",
}


class Source(Protocol):
    """Where tensors lie.

    Attributes:
      where: the file or folder, as errors name it.
    """

    where: str

    def names(self) -> Iterable[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def is_float(self, name: str) -> bool: ...

    def read(self, name: str, index: tuple) -> np.ndarray:
        """A part of a tensor: slices, or an array of places along one axis."""

    def forget(self) -> None:
        """Lets go of what is not needed any more."""


def check(
    source: Source, found: dict[str, Entry], config: ModelConfig, tied: str | None, scorer: bool
) -> None:
    """Looks at the name, type and shape of every tensor; none is read but a tied unembedding.

    Args:
      source: the checkpoint.
      found: where every parameter lies.
      config: of the model.
      tied: what an unembedding is called that has to be the embedding, if there is one.
      scorer: whether there is a score's kernel.

    Raises:
      UserError: naming the first tensor that is missing, of another type or shape, or not used.
    """
    shapes = leaves(param_shapes(config))
    expected: dict[str, tuple[int, ...]] = {SCORE: (1, config.width)} if scorer else {}
    for path, entry in found.items():
        shape = list(shapes[path].shape[entry.stacked :])
        shape[entry.axis] = entry.size(shape[entry.axis])
        shape = tuple(shape[::-1] if entry.transposed else shape)
        for name in entry.names(config.layers):
            expected[name] = max(shape, expected.get(name, shape))
    left = set(source.names())
    if tied in left:
        expected[tied] = shapes["embed/tokens"].shape
    for name, shape in expected.items():
        if name not in left:
            raise UserError(
                f"{source.where} has no tensor {name}; is it of another architecture or depth?"
            )
        if not source.is_float(name):
            raise UserError(
                f"{source.where}: the tensor {name} is not of floating point; is it quantized?"
            )
        if source.shape(name) != shape:
            raise UserError(
                f"{source.where}: the tensor {name} is {source.shape(name)}, but by its "
                f"configuration it is {shape}."
            )
    for name in sorted(left - expected.keys()):
        if not any(re.fullmatch(pattern, name) for pattern in HARMLESS):
            raise UserError(
                f"{source.where}: the tensor {name} is not used by the model that its "
                "configuration describes; is it of another architecture or depth?"
            )
    if tied in left:
        _check_tied(source, tied, found["embed/tokens"].theirs)


def _check_tied(source: Source, name: str, embedding: str) -> None:
    rows = source.shape(name)[0]
    for start in range(0, rows, 4096):
        part = (slice(start, min(start + 4096, rows)), slice(None))
        if not np.array_equal(source.read(name, part), source.read(embedding, part)):
            raise UserError(
                f"{source.where}: the tensor {name} differs from the embedding, which its "
                "configuration uses in its place; set tie_word_embeddings to false to use it."
            )


def load(
    source: Source, found: dict[str, Entry], config: ModelConfig, mesh: Mesh | None, dtype: Dtype
) -> Params:
    """The parameters of a language model, on the default device or over a mesh.

    Args:
      source, found, config: the checkpoint, as it was checked.
      mesh: None: no mesh.
      dtype: of the parameters; "int8" and "int4" put matrices in blocks and leave the rest float32
        (`quantized.py`).

    Raises:
      UserError: if the mesh does not divide a parameter, or its blocks.
    """
    shapes, axes = param_shapes(config), logical_axes(config)
    places = None if mesh is None else leaves(rules.shardings(shapes, mesh, axes))
    in_blocks = dtype in ("int8", "int4")
    with ThreadPoolExecutor(copies.WORKERS) as pool:

        def one(path, shape):
            name = rules.path_name(path)
            read = functools.partial(read_slice, source, found[name], pool)
            place = None if places is None else places[name]
            axis = block_axis(name, axes, shape.ndim) if in_blocks else None
            if axis is None:
                stored = np.float32 if in_blocks else jax.numpy.dtype(dtype)
                leaf = placed(lambda index: read(index, stored), shape.shape, place)
            else:
                leaf = _quantized(read, name, shape.shape, place, dtype, axis)
            source.forget()
            return leaf

        return jax.tree_util.tree_map_with_path(one, shapes)


def placed(read: Callable[[Index], Any], shape: tuple[int, ...], place: Any) -> Any:
    """A global array, or a tree of them, of the parts that this process' devices hold.

    Args:
      read: the part at an index: an array, or a `Quantized`.
      shape: of the whole.
      place: a NamedSharding; None: the default device has it all.
    """
    if place is None:
        return jax.device_put(read(tuple(slice(0, size) for size in shape)))
    holders: dict[tuple, list] = {}
    for device, index in place.addressable_devices_indices_map(shape).items():
        key = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        holders.setdefault(key, []).append(device)
    # By device, since each array is of one; replicas share what is read.
    parts = []
    for key, devices in holders.items():
        part = read(tuple(slice(*ends) for ends in key))
        parts += [jax.device_put(part, device) for device in devices]
        jax.block_until_ready(parts[-1])  # or all parts would be in the host's memory at once

    def whole(*pieces):
        sizes = tuple(
            size * total // held
            for size, total, held in zip(
                pieces[0].shape, shape, place.shard_shape(shape), strict=True
            )
        )
        return jax.make_array_from_single_device_arrays(sizes, place, list(pieces))

    return jax.tree.map(whole, *parts)


def _quantized(read, name: str, shape: tuple[int, ...], place: Any, kind: str, axis: int):
    """The parameter in blocks, a layer at a time."""
    held = shape if place is None else place.shard_shape(shape)
    if held[axis] % BLOCK:
        raise UserError(
            f"{name}: blocks of {BLOCK} do not divide the {held[axis]} places of its input axis "
            "that a device holds; load this model in bfloat16, or split it over fewer devices"
        )

    def one(index: Index) -> Quantized:
        if len(index) == 2:
            return quantize_array(read(index, np.float32), kind, axis, name)
        layers = [
            quantize_array(read((slice(i, i + 1), *index[1:]), np.float32)[0], kind, axis, name)
            for i in range(index[0].start, index[0].stop)
        ]
        return jax.tree.map(lambda *x: np.stack(x), *layers)

    return placed(one, shape, place)


def read_slice(
    source: Source, entry: Entry, pool: ThreadPoolExecutor, index: Index, dtype: Any
) -> np.ndarray:
    """One part of one of our parameters, as it is stored here."""
    shape = tuple(part.stop - part.start for part in index)
    out = copies.empty(shape, dtype)
    index, layers = (
        (index[1:], range(index[0].start, index[0].stop))
        if entry.stacked
        else (
            index,
            [None],
        )
    )

    def fill(layer: int | None) -> None:
        theirs = list(index)
        if entry.pick is not None:
            start, stop = index[entry.axis].start, index[entry.axis].stop
            if isinstance(entry.pick, slice):
                theirs[entry.axis] = slice(entry.pick.start + start, entry.pick.start + stop)
            else:
                theirs[entry.axis] = entry.pick[start:stop]
        part = source.read(
            entry.theirs.format(layer), tuple(theirs[::-1] if entry.transposed else theirs)
        )
        target = out if layer is None else out[layer - layers[0]]
        copies.copy(target, part.T if entry.transposed else part)
        if entry.offset:
            target += np.asarray(entry.offset, out.dtype)

    list(pool.map(fill, layers))
    return out


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a nested dict by their paths."""
    return {rules.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
