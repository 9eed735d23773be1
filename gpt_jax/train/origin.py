"""What a stage starts from: an earlier run's folder, or a model that other people trained.

    runs/sft/default                    a stage's run folder
    path/to/model                       a folder in Hugging Face's layout, or in peft's
    hf:ORG/NAME[@REVISION]              the same, downloaded once
    gguf:FILE                           llama.cpp's format

A model from elsewhere comes with its tokenizer and its chat template; from the first stage on it
lies in a run folder like any other. A run folder may hold adapters alone; what is loaded from it is
the model that they make of their backbone.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gpt_jax import files
from gpt_jax.data.sources import say_once
from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import Model, param_shapes
from gpt_jax.models.grow import grow
from gpt_jax.models.heads import axes_of
from gpt_jax.models.lora import SCALE, attached, merge
from gpt_jax.models.quantized import keep_as, quantized_axes
from gpt_jax.parallel import rules
from gpt_jax.ranges import Positive
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import checkpoint
from gpt_jax.train import state as states
from gpt_jax.train.adapters import FrozenDtype, read_adapter_file
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.command import Common

if TYPE_CHECKING:
    from gpt_jax.models.weights import Pretrained

AGAIN = "download the file again, or give another folder"
LOOKED_AT = 2**20  # bytes at either end of a file, for its fingerprint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Started(Common):
    """The configuration of a stage that starts from a language model."""

    init_from: str
    """The model to start from: a run folder, a Hugging Face folder, hf:ORG/NAME or gguf:FILE."""
    context: Positive | None = None
    """Use no more than so many tokens of its context. None: all of it, which of a model from
    elsewhere may be many thousands: rows are as long, and longer conversations lose old turns."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """What is computed in; parameters are float32. None: as the model says, float32 of one from
    elsewhere."""


def start_of(
    config: Started,
    shapes: Callable[[Model], Any] | None = param_shapes,
    template: str | None = None,
) -> ModelFiles:
    """Shape and tokenizer of what a stage starts from.

    Args:
      config: of the stage.
      shapes: as for `load_model_files`.
      template: the name of a chat template that the model is to learn; it has rows for its tokens.
    """
    how = {"context": config.context, "dtype": config.dtype}
    model, tokenizer = load_model_files(config.init_from, shapes, **how)
    if template is None:
        return ModelFiles(model, tokenizer)
    tokenizer = tokenizer.with_template(template)
    rows = max(model.vocab_size, tokenizer.vocab_size)
    return ModelFiles(dataclasses.replace(model, vocab_size=rows), tokenizer)


def start_params(config: Started, mesh: Mesh, template: str | None = None) -> dict[str, Any]:
    """The parameters that a stage starts from, over the mesh; see `start_of`."""
    params = load_params(config.init_from, mesh, context=config.context)
    if template is None:
        return params
    rows = start_of(config, template=template).model.vocab_size
    return grow(params, start_of(config).model, rows)[1]


def is_foreign(where: str | Path) -> bool:
    """Whether a model is other people's, and not a run folder, of a stage or of several."""
    if str(where).startswith(("hf:", "gguf:")):
        return True
    folder = Path(where)
    if (folder / "model.json").is_file() or (folder / "checkpoints").is_dir():
        return False
    if any(folder.glob("*.safetensors*")) or (folder / "adapter_config.json").is_file():
        return True
    # A whole run's folder has no model of its own, but a config.json that says which run it is.
    config = folder / "config.json"
    return config.is_file() and "stage" not in files.read_json(config, AGAIN)


@functools.lru_cache(maxsize=4)  # its files are looked at for the shapes and again for the weights
def _opened(where: str) -> Pretrained:
    # Every family's tables take a twentieth of a second to import, which only they need who ask.
    from gpt_jax.models.weights import open_pretrained

    return open_pretrained(where)


def load_model_files(
    where: str | Path,
    shapes: Callable[[Model], Any] | None = None,
    *,
    context: int | None = None,
    dtype: str | None = None,
) -> ModelFiles:
    """Shape and tokenizer of a model, before any parameters are loaded.

    Args:
      where: see the top of this file.
      shapes: `model -> parameters` as ShapeDtypeStructs, of what must lie there: a language model
        (`param_shapes`) or a scorer (`scorer_shapes`).
      context: the most tokens of its context that are used, if not all.
      dtype: what is computed in, if not what the model says.

    Raises:
      UserError: if there is no model, or another than the one needed.
    """
    if not is_foreign(where):
        model, tokenizer = checkpoint.load_model_files(where, shapes)
    else:
        found = _opened(str(where))
        model, tokenizer = found.config, Tokenizer.load(found.folder_or_file)
        if lost := tokenizer.missing_bytes:
            say_once(
                f"{where}: its vocabulary lacks {len(lost)} of the 256 bytes; characters that are "
                "written with them (control characters and rare scripts, mostly) are lost"
            )
        needed = shapes is None or "head" in shapes(model)
        if shapes is not None and needed != found.is_scorer:
            kinds = {True: "a reward model", False: "a language model"}
            raise UserError(
                f"{where} holds {kinds[found.is_scorer]}, where {kinds[needed]} is needed; give "
                "another model"
            )
        if tokenizer.vocab_size > model.vocab_size:
            raise UserError(
                f"{where}: its tokenizer has {tokenizer.vocab_size} tokens, its model only "
                f"{model.vocab_size}; see that both are of one download"
            )
    if isinstance(model, ModelConfig):
        if context is not None and context > model.context_length:
            raise UserError(
                f"--context {context} is more than the {model.context_length} tokens of {where}; "
                "give at most that"
            )
        model = dataclasses.replace(
            model,
            context_length=context or model.context_length,
            dtype=dtype or model.dtype,
        )
    return ModelFiles(model, tokenizer)


def load_params(
    where: str | Path,
    mesh: Mesh | None = None,
    *,
    context: int | None = None,
    item: str = "params",
    part: str = "",
) -> dict[str, Any]:
    """The parameters of a model, as float32.

    Args:
      where: see the top of this file.
      mesh: where to put them; None: on one device.
      context: as for `load_model_files`.
      item, part: of a run's folder, as for `checkpoint.load_params`; of one that learned adapters
        by PPO the part is its policy.
    """
    if is_foreign(where):
        params = _opened(str(where)).load(mesh)
    elif read_adapter_file(where) is not None:
        params = _merged(where, mesh, item)
    else:
        params = checkpoint.load_params(where, mesh, item, part=part)
    return _shortened(params, context)


def load_model(folder: str | Path, mesh: Mesh | None = None) -> tuple[Model, dict, Tokenizer]:
    """A language model ready to sample from: shape, parameters and tokenizer of a stage's folder.

    Of a PPO stage it is the policy (its moving average if one was kept).
    """
    model, tokenizer = checkpoint.load_model_files(folder)
    averaged = checkpoint.newest_checkpoint(folder) / "average"
    item = "average" if averaged.is_dir() else "params"
    return model, load_params(folder, mesh, item=item, part="policy"), tokenizer


class Backbone(NamedTuple):
    """Attributes:
    where: the model whose weights stay as they are; see the top of this file.
    fingerprint: of it.
    """

    where: str
    fingerprint: str


def backbone_of(where: str | Path) -> Backbone:
    """What adapters stand on that start from a model: itself, or what its own adapters stand on.

    Raises:
      UserError: if there is none, or it has changed since adapters were learned on it.
    """
    found = None if is_foreign(where) else read_adapter_file(where)
    if found is None:
        return Backbone(str(where), fingerprint(where))
    named = f"{where} holds adapters, which stand on {found.backbone}; that"
    mend = "put back what was there, or train the adapters again"
    try:
        now = fingerprint(found.backbone)
    except (UserError, OSError) as error:
        raise UserError(f"{named} cannot be read ({error}); {mend}") from error
    if now != found.fingerprint:
        raise UserError(f"{named} has changed since; {mend}")
    return Backbone(found.backbone, now)


def load_backbone(where: str, mesh: Mesh | None, dtype: FrozenDtype, model: Model) -> dict:
    """The weights under adapters.

    Args:
      where: they lie, `Backbone.where`.
      mesh: where to put them; None: on one device.
      dtype: how their matrices are kept, `keep_as`.
      model: as it is used, of a context that may be shorter.
    """
    if dtype in ("int8", "int4") and is_foreign(where):
        params = _opened(where).load(mesh, dtype)  # no float32 is ever there
        return _shortened(params, model.context_length)
    params = _shortened(load_params(where, mesh), model.context_length)
    if dtype is None:
        return params
    axes = quantized_axes(axes_of(model))
    return _made(functools.partial(keep_as, axes=axes, dtype=dtype), params, mesh=mesh, axes=axes)


def _merged(folder: str | Path, mesh: Mesh | None, item: str) -> dict[str, Any]:
    """The parameters that adapters in a run folder make of their backbone."""
    found, model = read_adapter_file(folder), checkpoint.load_model_files(folder).model
    backbone = load_backbone(backbone_of(folder).where, mesh, found.frozen_dtype, model)
    adapters = checkpoint.load_params(folder, mesh, item, part="policy")

    def merged(backbone: dict, adapters: dict) -> dict:
        frozen = {"backbone": backbone, SCALE: jnp.float32(found.lora.scale)}
        return merge(attached(adapters, frozen))

    return _made(merged, backbone, adapters, mesh=mesh, axes=axes_of(model))


def _made(make: Callable[..., Any], *args: Any, mesh: Mesh | None, axes: rules.Axes) -> Any:
    """`make(*args)`, over the mesh if there is one."""
    return states.create(make, *args, mesh=mesh, axes=axes) if mesh else jax.jit(make)(*args)


def _shortened(params: dict[str, Any], context: int | None) -> dict[str, Any]:
    """Of learned positions only those of the context that is used."""
    embed = params.get("backbone", params)["embed"]
    if context is None or not isinstance(embed, dict) or "positions" not in embed:
        return params
    embed = embed | {"positions": embed["positions"][:context]}
    if "backbone" in params:
        return params | {"backbone": params["backbone"] | {"embed": embed}}
    return params | {"embed": embed}


def fingerprint(where: str | Path) -> str:
    """A number for the model that lies somewhere.

    Of one from elsewhere the sizes of its files count, and their first and last megabyte, where
    their headers are: to read all of it takes minutes where it is large.

    Raises:
      UserError: if there is none.
    """
    if not is_foreign(where):
        return _fingerprint_of_run(Path(where))
    digest = hashlib.sha256()
    for part in _opened(str(where)).files:
        size = part.stat().st_size
        digest.update(f"{part.name} {size} ".encode())
        with open(part, "rb") as file:
            digest.update(file.read(LOOKED_AT))
            file.seek(max(0, size - LOOKED_AT))
            digest.update(file.read(LOOKED_AT))
    return digest.hexdigest()[:16]


def _fingerprint_of_run(folder: Path) -> str:
    newest = checkpoint.newest_checkpoint(folder)
    sums = sorted(p for p in (newest / "checksums").rglob("*") if p.is_file())
    digest = hashlib.sha256()
    named = (folder / name for name in ("model.json", "tokenizer.json", "tokenizer_config.json"))
    for path in (*named, *sums):
        digest.update(path.read_bytes() if path.is_file() else b"")
    if (adapters := read_adapter_file(folder)) is not None:
        digest.update(f"{adapters.lora} {adapters.fingerprint} {adapters.frozen_dtype}".encode())
    return digest.hexdigest()[:16]
