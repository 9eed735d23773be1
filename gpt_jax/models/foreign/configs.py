"""A Hugging Face config.json <-> `ModelConfig`, by the table of its family."""

import dataclasses
from typing import Any

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.foreign.families import FAMILIES
from gpt_jax.models.foreign.keys import Keys


def config_from_hf(theirs: dict, source: str) -> ModelConfig:
    """The `ModelConfig` that a Hugging Face config.json describes.

    Args:
      theirs: the object in the file.
      source: the file, as errors name it.

    Raises:
      UserError: naming `source`, the key, and the value that cannot be expressed.
    """
    keys = Keys(theirs, source)
    kind = keys.take("model_type", str)
    if kind not in FAMILIES:
        hint = "; serve a sentence encoder with --embeddings" if kind == "bert" else ""
        keys.refuse("model_type", kind, f"{', '.join(FAMILIES)} can be{hint}")
    fields: dict[str, Any] = {}
    for part in FAMILIES[kind].parts:
        fields |= part.read(keys, fields)
    keys.finish()
    try:
        return ModelConfig(**fields)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def config_to_hf(config: ModelConfig, kind: str | None = None) -> dict[str, Any]:
    """The config.json of a family that computes the same logits; `config_from_hf` reads it back.

    Args:
      config: the model.
      kind: the family, one of `FAMILIES`; None: the first that can.

    Raises:
      UserError: naming the fields that no family has, or that `kind` has not.
    """
    if kind is not None and kind not in FAMILIES:
        raise UserError(f"There is no family {kind}; {', '.join(FAMILIES)} can be written.")
    wrong: dict[str, list[str]] = {}
    for name in FAMILIES if kind is None else (kind,):
        written = _written(config, name)
        wrong[name] = _differences(config, written, name)
        if not wrong[name]:
            return written
    nearest = min(wrong, key=lambda name: len(wrong[name]))
    raise UserError(
        f"The model cannot be written as {'any family' if kind is None else kind}: it has "
        f"{' and '.join(wrong[nearest])}, which {nearest} cannot express; keep it as a run folder"
    )


def _written(config: ModelConfig, kind: str) -> dict[str, Any]:
    theirs: dict[str, Any] = {"model_type": kind}
    for part in FAMILIES[kind].parts:
        theirs |= part.write(config.resolved())
    return theirs


def _differences(config: ModelConfig, written: dict[str, Any], kind: str) -> list[str]:
    """The fields that come back otherwise, as "field value"."""
    try:
        back = config_from_hf(written, kind)
    except UserError as error:
        return [str(error), ""]  # further away than one field
    ours, theirs = (dataclasses.asdict(computed(c)) for c in (config, back))
    return [f"{name} {ours[name]}" for name in ours if not _same(ours[name], theirs[name])]


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= 1e-6 * abs(theirs)
    return ours == theirs


def computed(config: ModelConfig) -> ModelConfig:
    """A configuration of the same logits, in which what changes none has its default."""
    c = config.resolved()
    plain_fields = {field.name: field.default for field in dataclasses.fields(c)}
    same = ["dtype", "remat", "dropout", "attention_dropout", "embedding_dropout"]
    if c.positions != "rope":
        same += [name for name in plain_fields if name.startswith("rope_")]
    if c.rope_scaling == "linear":
        same += ["rope_original_context", "rope_turns_low", "rope_turns_high"]
    if c.window is None:
        same += ["global_every", "rope_theta_local"]
    elif c.global_every is not None and c.global_every > c.layers:
        c = dataclasses.replace(c, global_every=None)
    if c.rope_theta_local == c.rope_theta and (c.rope_divisor, c.rope_magnitude) == (1.0, 1.0):
        c = dataclasses.replace(c, rope_theta_local=None)
    if c.biases:
        same.append("qkv_biases")
    if _same(c.query_scale, c.head_size**-0.5):
        same.append("query_scale")
    return dataclasses.replace(c, **{name: plain_fields[name] for name in same})
