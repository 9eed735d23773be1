"""Rotary settings of a config.json <-> the `rope_*` fields of `ModelConfig`.

Files have them under `rope_parameters` (since version 5 of `transformers`), or as a base beside
`rope_scaling`. The older form is written: newer readers take it too.
"""

import math
from typing import Any

from gpt_jax.models.config import ModelConfig
from gpt_jax.models.foreign.keys import Keys


def settings(keys: Keys) -> dict:
    """The object with the rotary settings, whatever it is called; {} without one."""
    rope, scaling = keys.take("rope_parameters", dict, {}), keys.take("rope_scaling", dict, {})
    if rope and scaling:
        keys.refuse("rope_scaling", scaling, "rope_parameters is there too")
    return rope or scaling


def read(
    keys: Keys,
    rope: dict,
    context: int,
    *,
    beside: str = "rope_theta",
    default: float = 10000.0,
    kinds: tuple[str, ...] = ("default", "linear", "llama3", "yarn"),
    share: tuple[str, float] | None = None,
) -> dict[str, Any]:
    """The fields that rotary settings say.

    Args:
      keys: the whole file's.
      rope: the rotary settings in it.
      context: the longest sequence, from which YaRN's and Llama's original context follows where
        it is not given.
      beside: the key of the base where older files have it, outside of these settings.
      default: the base where there is none.
      kinds: those that the family has.
      share: of a family that rotates a part of each head, the key of that part outside of these
        settings and what it is by default.
    """
    inner = Keys(rope, f"{keys.where}: rope_parameters (or rope_scaling)")
    inner.left.setdefault("rope_type", inner.left.pop("type", "default"))
    kind = inner.take("rope_type", str)
    if kind not in kinds:
        inner.refuse("rope_type", kind, f"{' and '.join(kinds)} can be")
    outside = keys.take(beside, float, None)
    theta = inner.take("rope_theta", float, default if outside is None else outside)
    if outside not in (None, theta):
        keys.refuse(beside, outside, f"its rotary settings say {theta}")
    fields: dict[str, Any] = dict(rope_theta=theta)
    if share is not None:
        key, whole = share
        outside = keys.take(key, float, None)
        part = inner.take("partial_rotary_factor", float, whole if outside is None else outside)
        if outside not in (None, part):
            keys.refuse(key, outside, f"its rotary settings say {part}")
        fields["rope_share"] = part
    if kind != "default":
        fields["rope_divisor"] = inner.take("factor", float)
    if kind in ("llama3", "yarn"):
        original = inner.take("original_max_position_embeddings", int, context)
        fields |= dict(rope_scaling=kind, rope_original_context=original)
    if kind == "llama3":
        fields["rope_turns_low"] = inner.take("low_freq_factor", float)
        fields["rope_turns_high"] = inner.take("high_freq_factor", float)
    if kind == "yarn":
        fields |= _yarn(inner, fields["rope_divisor"])
    inner.finish()
    return fields


def _yarn(inner: Keys, divisor: float) -> dict[str, Any]:
    if not inner.take("truncate", bool, True):
        inner.refuse("truncate", False, "the ends of the ramp are whole dimensions")
    one, other = inner.take("mscale", float, None), inner.take("mscale_all_dim", float, None)
    if one is not None and other is not None:
        usual = _magnitude(divisor, one) / _magnitude(divisor, other)
    else:
        usual = _magnitude(divisor, 1.0)
    return dict(
        rope_turns_low=inner.take("beta_slow", float, 1.0),
        rope_turns_high=inner.take("beta_fast", float, 32.0),
        rope_magnitude=inner.take("attention_factor", float, usual),
    )


def _magnitude(divisor: float, times: float) -> float:
    """What YaRN multiplies queries and keys by (Peng et al. 2023, section 3.4)."""
    return 0.1 * times * math.log(divisor) + 1.0 if divisor > 1 else 1.0


def write(config: ModelConfig, beside: str = "rope_theta") -> dict[str, Any]:
    """The keys that `read` makes these fields of, but for the rotated share of a head."""
    theirs: dict[str, Any] = {beside: config.rope_theta}
    if config.rope_scaling == "linear" and config.rope_divisor == 1.0:
        return theirs
    scaling: dict[str, Any] = dict(rope_type=config.rope_scaling, factor=config.rope_divisor)
    if config.rope_scaling != "linear":
        scaling["original_max_position_embeddings"] = config.rope_original_context
    if config.rope_scaling == "llama3":
        scaling["low_freq_factor"] = config.rope_turns_low
        scaling["high_freq_factor"] = config.rope_turns_high
    if config.rope_scaling == "yarn":
        scaling["beta_slow"] = config.rope_turns_low
        scaling["beta_fast"] = config.rope_turns_high
        scaling["attention_factor"] = config.rope_magnitude
    return theirs | {"rope_scaling": scaling}
