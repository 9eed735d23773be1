"""A run folder as something to ask: which model is served from it, and how it is asked."""

from __future__ import annotations

from pathlib import Path

from jax.sharding import Mesh

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.generate.text import Layout, TextModel
from gpt_jax.models.contract import param_shapes
from gpt_jax.seeds import refuse_many
from gpt_jax.train.origin import is_foreign, load_model, load_model_files, load_params

# The models of a whole run that can be asked, the best first: what people call them, and where.
SERVED = {"ppo": "ppo", "sft": "sft", "base": "pretrain"}
# How the model of a stage is asked; any other stage's has learned the chat.
LAYOUTS: dict[str, Layout] = {"pretrain": "document"}


def open_run(
    folder: str | Path,
    stage: str | None = None,
    mesh: Mesh | None = None,
    *,
    context: int | None = None,
    dtype: str | None = None,
) -> TextModel:
    """The model of a run folder, or one from elsewhere.

    Args:
      folder: of a whole run (with ppo/, sft/, pretrain/ inside) or of one stage; or what
        `origin.py` reads: a Hugging Face folder, hf:ORG/NAME, gguf:FILE.
      stage: "ppo" (of several rounds the last), "sft" or "base", of a whole run; None: the first
        of these that is there. A stage's own folder is what it is.
      mesh: where to put it; None: on one device.
      context, dtype: of a model from elsewhere, as for `origin.load_model_files`.

    Raises:
      UserError: if there is no such model, or only one that scores.
    """
    if is_foreign(folder):
        config, tokenizer = load_model_files(folder, param_shapes, context=context, dtype=dtype)
        layout = "chat" if tokenizer.template else "document"
        params = load_params(folder, mesh, context=context)
        return TextModel(config, params, tokenizer, layout, mesh)
    folder = served_folder(Path(folder), stage)
    layout = LAYOUTS.get(recorded_stage(folder), "chat")
    config, params, tokenizer = load_model(folder, mesh)
    if "head" in params:
        raise UserError(
            f"{folder}: this is a reward model, it has no text to give; give the folder of the "
            "whole run, or that of its sft or ppo stage"
        )
    return TextModel(config, params, tokenizer, layout, mesh)


def served_folder(folder: Path, stage: str | None) -> Path:
    """Where a model lies: inside a whole run's folder, or that folder itself."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run folder; give one under runs/.")
    if (folder / "checkpoints").is_dir():
        return folder
    refuse_many(folder)
    there = [name for name, sub in SERVED.items() if (folder / sub / "checkpoints").is_dir()]
    if not there:
        raise UserError(f"{folder}: there is no trained model in it; give a run's folder.")
    if stage is not None and stage not in there:
        raise UserError(f"{folder}: stage {stage} is not there yet; add --stage {there[0]}.")
    name = SERVED[stage or there[0]]
    rounds = [at for at in folder.glob(f"{name}*") if at.name.removeprefix(name).isdecimal()]
    begun = [at for at in rounds if (at / "checkpoints").is_dir()]
    return max(begun, key=lambda at: int(at.name.removeprefix(name)), default=folder / name)


def recorded_stage(folder: Path) -> str:
    """The stage that a folder's `config.json` says it is of.

    Raises:
      UserError: if there is no such file, or it says nothing.
    """
    path = folder / "config.json"
    unknown = (
        "it does not say which stage's model this is, and so how to ask it: restore it, or give "
        "another run's folder"
    )
    stage = files.read_json(path, unknown).get("stage")
    if not isinstance(stage, str):
        raise UserError(f"{path}: {unknown}")
    return stage
