"""Adapters in the layout of the `peft` package: adapter_config.json and adapter_model.safetensors.

Theirs are lora_A [R, I] and lora_B [O, R] for each matrix of a checkpoint. Where one of their
matrices is several of ours (GPT-2's c_attn, Phi-3's qkv_proj, GPT-NeoX's query_key_value), our n
adapters of rank R become one of rank n R: the A's one below the other, every B at the outputs that
are its own and zeros elsewhere, which is the same map. `rank_pattern` and `alpha_pattern` say so.
Read back, each of ours has all n R rows of theirs, and computes what they do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Params, param_shapes
from gpt_jax.models.foreign.assemble import leaves
from gpt_jax.models.foreign.configs import config_to_hf
from gpt_jax.models.foreign.export import Tensor, write_safetensors
from gpt_jax.models.foreign.safetensors import TensorFiles, read_json
from gpt_jax.models.foreign.tensors import TABLES, Entry, Table, entries
from gpt_jax.models.lora import LoraConfig
from gpt_jax.parallel import distributed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# Keys that change what is computed, with the values that do not.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "layer_replication": (None, []),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
    "megatron_config": (None,),
}


class Matrix(NamedTuple):
    """One of their matrices with adapters.

    Attributes:
      theirs: its name, with {} for the number of the layer, without its ending.
      outputs: of theirs.
      parts: our paths and where each lies in it.
    """

    theirs: str
    outputs: int
    parts: list[tuple[str, Entry]]


def matrices(table: Table, config: ModelConfig, paths: set[str]) -> Iterator[Matrix]:
    """Their matrices that our kernels at some paths are parts of."""
    shapes = leaves(param_shapes(config))
    sharing: dict[str, list[tuple[str, Entry]]] = {}
    for path, entry in entries(table, config).items():
        sharing.setdefault(entry.theirs, []).append((path, entry))
    for theirs, parts in sharing.items():
        outputs = max(entry.size(shapes[path].shape[-1]) for path, entry in parts)
        ours = [(path, entry) for path, entry in parts if path in paths]
        if ours:
            yield Matrix(theirs.removesuffix(".weight"), outputs, ours)


def save_adapters(
    folder: Path | str,
    config: ModelConfig,
    adapters: Params,
    lora: LoraConfig,
    base: str,
    kind: str | None = None,
) -> None:
    """Writes adapters; on many hosts all call it and process 0 writes.

    Args:
      folder: made if need be; the two files are replaced.
      config: of the backbone.
      adapters: a language model's, over the mesh or not.
      lora: which they are.
      base: what adapter_config.json is to call the backbone: a folder in Hugging Face's layout, or
        ORG/NAME.
      kind: the family, as for `save_pretrained`.

    Raises:
      UserError: naming what no family can express, or a file that cannot be written.
    """
    folder, kind = Path(folder), config_to_hf(config, kind)["model_type"]
    table, ours = TABLES[kind], leaves(adapters)
    paths = {path.rpartition("/")[0] for path in ours}
    tensors, ranks, alphas, names = [], {}, {}, []
    for matrix in matrices(table, config, paths):
        n, name = len(matrix.parts), matrix.theirs.removeprefix(table.prefix + table.layer)
        names.append(name)
        if n > 1:
            ranks[name] = n * lora.rank
            alphas[name] = lora.alpha * (n**0.5 if lora.rs else n)
        for layer in range(config.layers):
            a, b = (_joined(matrix, ours, layer, part) for part in "ab")
            module = PREFIX + matrix.theirs.format(layer)
            for ending, array in (("lora_A", a), ("lora_B", b)):
                make = lambda array=array: array  # noqa: E731
                tensors.append(Tensor(f"{module}.{ending}.weight", array.shape, make))
    theirs = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rs,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": names,
        "fan_in_fan_out": not table.transposed,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    distributed.on_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    write_safetensors(folder / WEIGHTS, tensors, "float32")
    text = json.dumps(theirs, indent=2) + "\n"
    distributed.on_main(lambda: files.write_text(folder / CONFIG, text))


def _joined(matrix: Matrix, ours: Params, layer: int, part: str) -> np.ndarray:
    """lora_A or lora_B of one of their matrices, of one layer."""
    arrays = [
        np.asarray(distributed.fetch(ours[f"{path}/{part}"][layer]), np.float32)
        for path, _ in matrix.parts
    ]
    if part == "a":
        return np.concatenate([a_IR.T for a_IR in arrays])
    out, column = np.zeros((matrix.outputs, sum(len(b) for b in arrays)), np.float32), 0
    for b_RO, (_, entry) in zip(arrays, matrix.parts, strict=True):
        rows = slice(None) if entry.pick is None else entry.pick
        out[rows, column : column + len(b_RO)] = b_RO.T
        column += len(b_RO)
    return out


class Peft(NamedTuple):
    """Adapters that other people trained, before they are read.

    Attributes:
      folder: where they lie.
      base: the model that they stand on: a folder, or hf:ORG/NAME.
      theirs: their adapter_config.json.
    """

    folder: Path
    base: str
    theirs: dict[str, Any]


def open_peft(folder: Path | str) -> Peft:
    """Looks at the configuration of adapters.

    Raises:
      UserError: naming the key that says they are something else than LoRA as we compute it.
    """
    path = Path(folder) / CONFIG
    theirs = read_json(path)
    if theirs.get("peft_type") != "LORA":
        kind = theirs.get("peft_type")
        raise UserError(f"{path}: peft_type is {kind!r}, but only LORA can be loaded")
    for key, values in NEUTRAL.items():
        if theirs.get(key) not in values:
            raise UserError(
                f"{path}: {key} is {theirs[key]!r}, which cannot be loaded; merge these adapters "
                "with peft (merge_and_unload) and give that model"
            )
    base = theirs.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise UserError(f"{path}: base_model_name_or_path is missing; say what the adapters are on")
    beside = [Path(base), Path(folder) / base]
    there = next((str(place) for place in beside if place.is_dir()), f"hf:{base}")
    return Peft(Path(folder), there, theirs)


def load_adapters(peft: Peft, config: ModelConfig, kind: str) -> tuple[Params, float]:
    """(adapters, scale), for `attach`; kernels that have none of theirs have none.

    Args:
      peft: from `open_peft`.
      config, kind: of the backbone, and its family.

    Raises:
      UserError: naming the tensor that is missing, of another shape or not used.
    """
    source, where = TensorFiles(peft.folder), peft.folder / WEIGHTS
    left, table = set(source.names()), TABLES[kind]
    shapes, adapters = leaves(param_shapes(config)), {}
    for matrix in matrices(table, config, set(shapes)):
        modules = [PREFIX + matrix.theirs.format(i) for i in range(config.layers)]
        if not any(f"{module}.lora_A.weight" in left for module in modules):
            continue
        pairs = []
        for module in modules:
            names = [f"{module}.{part}.weight" for part in ("lora_A", "lora_B")]
            if missing := [name for name in names if name not in left]:
                raise UserError(
                    f"{where} has no {missing[0]}, though other layers have; adapters of some "
                    "layers alone cannot be loaded: merge them with peft (merge_and_unload)"
                )
            left -= set(names)
            a_RI, b_OR = (np.float32(source.read(name, ())) for name in names)
            pairs.append((a_RI, b_OR * _scale(peft.theirs, module.removeprefix(PREFIX), len(a_RI))))
        for path, entry in matrix.parts:
            inputs, outputs = shapes[path].shape[-2:]
            rows = slice(None) if entry.pick is None else entry.pick
            try:
                pair = {
                    "a": jnp.stack([a_RI.T.reshape(inputs, -1) for a_RI, _ in pairs]),
                    "b": jnp.stack([b_OR[rows].T.reshape(-1, outputs) for _, b_OR in pairs]),
                }
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{where}: the adapters of {matrix.theirs} are not all {inputs} wide and of "
                    "one rank; are they of another model?"
                ) from error
            *parents, name = path.split("/")
            node = adapters
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = pair
    if left:
        raise UserError(
            f"{where}: the tensor {min(left)} is of no kernel of the model that it stands on; is "
            "it of another one?"
        )
    return adapters, 1.0


def _scale(theirs: dict[str, Any], module: str, rank: int) -> float:
    """What B A is multiplied by; of several patterns that fit the first counts, as there."""
    alpha = theirs.get("lora_alpha", 8)
    for pattern, value in (theirs.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = value
            break
    return alpha / (rank**0.5 if theirs.get("use_rslora") else rank)
