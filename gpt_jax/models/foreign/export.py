"""Our models as a folder in Hugging Face's layout, which `transformers` and vLLM load.

Tensors are written one by one, so that no second model is ever in memory, into files of at most
5 GB. The configuration is written last: a folder without it is not whole.

A reward model becomes a `...ForSequenceClassification` of one label. Theirs has no bias, ours has
one (it makes the mean score of the demonstrations 0): it stands in config.json as `head_bias`,
which is read back here and ignored there, so that all scores there are lower by this constant;
comparisons, and rewards that are whitened, are the same.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Params
from gpt_jax.models.foreign.assemble import leaves
from gpt_jax.models.foreign.configs import config_to_hf
from gpt_jax.models.foreign.families import FAMILIES
from gpt_jax.models.foreign.safetensors import INDEX
from gpt_jax.models.foreign.tensors import SCORE, TABLES, Entry, entries
from gpt_jax.models.heads import is_scorer
from gpt_jax.models.quantized import Quantized
from gpt_jax.parallel import distributed

LARGEST_FILE = 5 * 10**9
HEAD_BIAS = "head_bias"
NAMES = {"float32": "F32", "bfloat16": "BF16"}
TYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Tensor(NamedTuple):
    """Attributes:
    name: theirs.
    shape: theirs.
    make: the array, when its turn comes; every process calls it.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def save_pretrained(
    folder: Path | str,
    config: ModelConfig,
    params: Params,
    *,
    stop_ids: Sequence[int],
    pad_id: int | None = None,
    bos_id: int | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    kind: str | None = None,
) -> None:
    """Writes a language model or a scorer; on many hosts all call it and process 0 writes.

    Args:
      folder: made if need be; files of these names are replaced.
      config, params: the model's, or a scorer's: its backbone's configuration, and the dict of
        both. Arrays may be spread over a mesh.
      stop_ids: the tokens that end an answer, for generation_config.json.
      pad_id: what rows are filled up with; scorers of theirs find the last token by it.
      bos_id: what every text begins with, if something.
      dtype: of the tensors.
      kind: the family, as in config.json's `model_type`; None: the first that can.

    Raises:
      UserError: naming what no family can express, a weight that is not finite, or the file that
        cannot be written.
    """
    folder = Path(folder)
    scorer = is_scorer(params)
    backbone = params["backbone"] if scorer else params
    theirs = config_to_hf(config, kind)
    kind = theirs["model_type"]
    ids: dict[str, Any] = {"bos_token_id": bos_id, "eos_token_id": list(stop_ids)}
    ids["pad_token_id"] = pad_id
    theirs |= {"torch_dtype": dtype} | ids
    if len(stop_ids) == 1:
        theirs["eos_token_id"] = stop_ids[0]
    tensors = list(_tensors(TABLES[kind], config, backbone))
    ending = "ForCausalLM" if kind != "gpt2" or scorer else "LMHeadModel"
    if scorer:
        ending = "ForSequenceClassification"
        theirs |= _head(params["head"], pad_id)
        kernel_D = distributed.fetch(params["head"]["kernel_D"])
        tensors.append(Tensor(SCORE, (1, config.width), lambda: np.asarray(kernel_D)[None]))
    theirs["architectures"] = [FAMILIES[kind].classes + ending]
    _write_tensors(folder, tensors, dtype)
    if distributed.is_main():
        if not scorer:
            given = {key: value for key, value in ids.items() if value not in (None, [])}
            _write_json(folder / "generation_config.json", given)
        _write_json(folder / "config.json", theirs)


def _head(head: Params, pad_id: int | None) -> dict[str, Any]:
    """What config.json says of a score; see the top of this file for its bias."""
    if "likelihood" in head:
        raise UserError(
            "This reward model adds the log-likelihood of an answer to its score, which no "
            "...ForSequenceClassification does; train one without it (likelihood None)"
        )
    if "readout" in head:
        raise UserError(
            "This reward model reads its score at a token behind the answer, which no "
            "...ForSequenceClassification puts there; train one without it (no --reward.readout)"
        )
    if "sum" in head:
        raise UserError(
            "This reward model reads its score off all of an answer's tokens, which no "
            "...ForSequenceClassification does; train one without it (no --reward.sum)"
        )
    if pad_id is None:
        raise UserError("A reward model needs a pad_id: theirs finds the last token by it.")
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    return labels | {HEAD_BIAS: float(distributed.fetch(head["bias"]))}


def _tensors(table: Any, config: ModelConfig, params: Params) -> Iterator[Tensor]:
    """Every tensor of theirs, those that several of our parameters make included."""
    ours = _whole_leaves(params)
    sharing: dict[str, list[tuple[str, Entry]]] = {}
    for path, entry in entries(table, config).items():
        sharing.setdefault(entry.theirs, []).append((path, entry))
    for parts in sharing.values():
        path, entry = parts[0]
        shape = list(ours[path].shape[entry.stacked :])
        shape[entry.axis] = max(e.size(ours[p].shape[entry.axis]) for p, e in parts)
        theirs = tuple(shape[::-1] if entry.transposed else shape)
        for layer, name in enumerate(entry.names(config.layers)):
            yield Tensor(name, theirs, _maker(ours, parts, tuple(shape), layer))


def _whole_leaves(params: Params) -> dict[str, Any]:
    """By path; those in blocks are one leaf each."""
    found = leaves(params)
    for path in [path for path in found if path.endswith("/values")]:
        parent, leaf = path.removesuffix("/values").split("/"), params
        for name in parent:
            leaf = leaf[name]
        if isinstance(leaf, Quantized):
            del found[path], found[path.replace("/values", "/scales")]
            found["/".join(parent)] = leaf
    return found


def _maker(
    ours: dict[str, Any], parts: list[tuple[str, Entry]], shape: tuple[int, ...], layer: int
) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        out = np.zeros(shape, np.float32)
        for path, entry in parts:
            leaf = ours[path]
            if isinstance(leaf, Quantized):
                leaf = leaf.astype(np.float32)
            part = distributed.fetch(leaf[layer] if entry.stacked else leaf)
            place: list[Any] = [slice(None)] * len(shape)
            if entry.pick is not None:
                place[entry.axis] = entry.pick
            out[tuple(place)] = np.asarray(part, np.float32) - np.float32(entry.offset)
        return out.T if parts[0][1].transposed else out

    return make


def _write_tensors(folder: Path, tensors: list[Tensor], dtype: str) -> None:
    """The files, and the index if there are several."""
    size = {t.name: int(np.prod(t.shape)) * TYPES[dtype].itemsize for t in tensors}
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        filled = sum(size[t.name] for t in shards[-1])
        if shards[-1] and filled + size[tensor.name] > LARGEST_FILE:
            shards.append([])
        shards[-1].append(tensor)
    total = len(shards)
    names = [f"model-{i + 1:05}-of-{total:05}.safetensors" for i in range(total)]
    if total == 1:
        names = ["model.safetensors"]
    if distributed.is_main():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # What another model left here would be taken for a part of this one.
            for old in [*folder.glob("model*.safetensors"), folder / INDEX]:
                old.unlink(missing_ok=True)
            (folder / "config.json").unlink(missing_ok=True)
        except OSError as error:
            raise files.unwritable(folder, error) from error
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard, dtype)
    if total > 1 and distributed.is_main():
        where = {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard}
        index = {"metadata": {"total_size": sum(size.values())}, "weight_map": where}
        _write_json(folder / INDEX, index)


def write_safetensors(path: Path, tensors: list[Tensor], dtype: str) -> None:
    """One file: the length of a JSON header, the header, the tensors (see safetensors.py)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + int(np.prod(tensor.shape)) * TYPES[dtype].itemsize
        entry = {"dtype": NAMES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        header[tensor.name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    main = distributed.is_main()
    try:
        with open(partial if main else os.devnull, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors:
                array = tensor.make()
                if not np.isfinite(array).all():
                    raise UserError(
                        f"{tensor.name} has a weight that is not finite; this model is not worth "
                        "keeping: take an earlier checkpoint"
                    )
                if main:
                    np.ascontiguousarray(array, TYPES[dtype]).tofile(file)
        if main:
            os.replace(partial, path)
    except OSError as error:
        raise files.unwritable(path, error) from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    files.write_text(path, json.dumps(content, indent=2) + "\n")
