"""What of a model is learned: all of its weights, or low-rank adapters on weights that stay.

    start = Start(config, model)
    gradient_stage(..., first=start.first(first), load=start.load, shapes=start.shapes())

Of whole weights `load` gives the parameters, and nothing that is frozen. Of adapters it gives these
in the parameters' place, as `{"lora": adapters}`, and what they stand on as frozen; losses see
whole parameters either way (`models/lora.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gpt_jax import keys
from gpt_jax.errors import UserError
from gpt_jax.models.contract import Model, param_shapes
from gpt_jax.models.heads import axes_of
from gpt_jax.models.lora import ON_BACKBONE, SCALE, LoraConfig, drawn, zero_adapters
from gpt_jax.models.quantized import keep_as
from gpt_jax.train import checkpoint
from gpt_jax.train import state as states
from gpt_jax.train.adapters import AdapterFile, FrozenDtype, read_adapter_file
from gpt_jax.train.origin import (
    Started,
    backbone_of,
    is_foreign,
    load_backbone,
    start_of,
    start_params,
)
from gpt_jax.train.stage import Parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned(Started):
    """The configuration of a stage that learns all of a language model, or adapters on it."""

    lora: LoraConfig = LoraConfig()
    """With a rank, adapters are learned on frozen weights."""
    frozen_dtype: FrozenDtype = None
    """How the matrices of what is frozen (the backbone under adapters, PPO's reference and reward
    model) are kept: float32 by default, or in 2, 1.1 or 0.6 bytes a weight. Without adapters PPO's
    KL then begins at the error of that, not at 0."""


class Start(NamedTuple):
    """What a stage starts from.

    Attributes:
      config: of the stage.
      model: the shape of the model in `init_from`.
      template: that it is to learn, as for `start_of`.
    """

    config: Tuned
    model: Model
    template: str | None = None

    @property
    def adapts(self) -> bool:
        """Whether adapters are learned, and not the weights."""
        return bool(self.config.lora.rank)

    def check(self, frozen: bool = False) -> None:
        """Looks at all that can be known before anything is loaded.

        Args:
          frozen: whether something is frozen also where all weights are learned.

        Raises:
          UserError: if adapters cannot go on from what is there, or an option has no effect.
        """
        c = self.config
        if not self.adapts:
            if c.frozen_dtype and not frozen:
                raise UserError(
                    "--frozen-dtype keeps frozen weights small, but none are frozen here; add "
                    "--lora.rank 16, or leave it out"
                )
            return
        zero_shapes(c.lora, self.model)  # the rank fits
        if self.template and start_of(c).tokenizer.vocab_size < self._vocab_size():
            raise UserError(
                f"the template {self.template} has tokens that are new to {c.init_from}, and "
                "adapters learn no rows of the embedding; leave --lora.rank out, or take a "
                "template whose tokens it has"
            )
        self.check_adapters(c.init_from)

    def check_adapters(self, where: str) -> AdapterFile | None:
        """The adapters of a model that this one's can go on from; None where it has none, since it
        is what these are to stand on, or is still to be made.

        Raises:
          UserError: if it stands on other weights, or its adapters are of another kind.
        """
        c = self.config
        found = None if is_foreign(where) else read_adapter_file(where)
        if found is not None:
            for name, value in dataclasses.asdict(c.lora).items():
                there = getattr(found.lora, name)
                if there != value:
                    raise UserError(
                        f"{where} holds adapters with lora.{name} {there}, which those with "
                        f"lora.{name} {value} cannot go on from; give --lora.{name} {there}, or "
                        "make whole weights of them first (python -m experiments.convert)"
                    )
        begun = (Path(where) / "checkpoints").is_dir()
        if where != c.init_from and begun and not shares_backbone(where, c.init_from):
            raise UserError(
                f"{where} holds no adapters on what {c.init_from} stands on; leave --lora.rank "
                "out, or give a run that learned them"
            )
        return found

    def load(self, mesh: Mesh, reference: bool = False) -> Parameters:
        """The parameters, or the adapters, that it starts from, and what is frozen with them.

        Args:
          mesh: over which they lie.
          reference: whether they are also a frozen model, "reference".
        """
        c = self.config
        if not self.adapts:
            params = start_params(c, mesh, self.template)
            return Parameters((params,), {"reference": params} if reference else {})
        backbone = load_backbone(backbone_of(c.init_from).where, mesh, c.frozen_dtype, self.model)
        scale = states.create(lambda: jnp.float32(c.lora.scale), mesh=mesh, axes={})
        frozen = {"backbone": backbone, SCALE: scale}
        first = self.adapters_in(c.init_from, mesh)
        if reference:
            frozen["reference"] = jax.tree.map(jnp.copy, first)
        return Parameters((first,), frozen)

    def adapters_in(self, where: str, mesh: Mesh) -> dict:
        """The adapters of a language model that stands on this backbone: of a run's newest
        checkpoint, or zeros for the backbone itself.

        Raises:
          UserError: as `check_adapters`.
        """
        axes, found = axes_of(self.model), self.check_adapters(where)
        if found is None and where == self.config.init_from:
            zeros = functools.partial(zero_adapters, self.config.lora, self.model)
            return {ON_BACKBONE: states.create(zeros, mesh=mesh, axes=axes)}
        averaged = (checkpoint.newest_checkpoint(where) / "average").is_dir()
        item = "average" if averaged else "params"
        adapters = checkpoint.load_params(where, mesh, item, part="policy", axes=axes)
        return jax.tree.map(lambda x: x.astype(jnp.float32), adapters)

    def shapes(self, reference: bool = False) -> Parameters:
        """Of what `load` gives, as ShapeDtypeStructs; nothing is read."""
        c, params = self.config, param_shapes(self.model)
        if not self.adapts:
            return Parameters((params,), {"reference": params} if reference else {})
        keep = functools.partial(keep_as, axes=axes_of(self.model), dtype=c.frozen_dtype)
        scale = jax.ShapeDtypeStruct((), jnp.float32)
        frozen = {"backbone": jax.eval_shape(keep, params), SCALE: scale}
        first = {ON_BACKBONE: zero_shapes(c.lora, self.model)}
        return Parameters((first,), frozen | ({"reference": first} if reference else {}))

    def first(self, first: Callable[..., Any]) -> Callable[..., Any]:
        """`first(seed, *origin)`, or any other beginning, with new adapters drawn."""
        if not self.adapts:
            return first

        def from_drawn(seed: jax.Array, *origin: Any) -> Any:
            return first(seed, *drawn(origin, keys.derive(seed, 0, "lora")))

        return from_drawn

    def adapter_file(self) -> AdapterFile | None:
        """What the run folder is to say of its adapters; None where it holds whole weights."""
        c = self.config
        if not self.adapts:
            return None
        return AdapterFile(c.lora, *backbone_of(c.init_from), c.frozen_dtype)

    def _vocab_size(self) -> int:
        return start_of(self.config, template=self.template).tokenizer.vocab_size


def zero_shapes(lora: LoraConfig, model: Model) -> dict:
    """Of adapters, as ShapeDtypeStructs."""
    return jax.eval_shape(lambda: zero_adapters(lora, model))


def shares_backbone(where: str | Path, other: str | Path) -> bool:
    """Whether the adapters in a run folder stand on what those from another model would."""
    if is_foreign(where) or read_adapter_file(where) is None:
        return False
    return backbone_of(where).fingerprint == backbone_of(other).fingerprint
