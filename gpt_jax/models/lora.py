"""LoRA: what is learned is a low-rank difference to weights that stay as they are.

    W + s A B,        A [I, R] ~ N(0, 1/I),  B [R, O] = 0,        s = alpha / R

(Hu et al. 2021, section 4.1), or s = alpha / sqrt(R), under which the size of what an adapter adds
does not shrink as its rank grows (rsLoRA; Kalajdzievski 2023, theorem 3.2).

Adapters are plain nested dicts with a pair {"a", "b"} where the backbone has a kernel. Wherever
parameters are expected, `{"lora": adapters}` may stand for them, in what is learned and in what is
frozen alike: a policy, a reference, a reward model's backbone. `attached` puts them on the one
backbone, `frozen["backbone"]`, so that any number of models holds its weights once.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gpt_jax.errors import UserError
from gpt_jax.models.adapted import Adapted
from gpt_jax.models.contract import Model, Params, logical_axes, param_shapes
from gpt_jax.models.quantized import dequantized
from gpt_jax.parallel.rules import Axes, is_matrix, path_name
from gpt_jax.ranges import NonNegative, PositiveFloat, check_ranges

# The logical axis by which a kernel of a sublayer is known.
SUBLAYERS = {"attention": "heads", "mlp": "mlp"}
# Which weights the adapters under a key stand on, by where those lie in what is frozen.
ON_BACKBONE, ON_REWARD = "lora", "lora_on_reward"
BACKBONES = {ON_BACKBONE: ("backbone",), ON_REWARD: ("reward", "backbone")}
SCALE = "lora_scale"  # beside the backbone


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on frozen weights (Hu et al. 2021)."""

    rank: NonNegative = 0
    """Learn adapters of this rank, and freeze all else; 0: no adapters, all weights are learned.
    They want a learning rate about 10 times larger."""
    alpha: PositiveFloat = 32.0
    """What an adapter adds is multiplied by alpha / rank."""
    targets: Literal["all", "attention", "mlp"] = "all"
    """Which kernels have adapters: those of the attention, of the feed-forward layers, or both."""
    rs: bool = False
    """Multiply by alpha / sqrt(rank) instead (rsLoRA; Kalajdzievski 2023)."""

    def __post_init__(self):
        check_ranges(self)
        given = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        if given and not self.rank:
            raise UserError(f"lora.{given[0]} does nothing without adapters; add --lora.rank 16")

    @property
    def scale(self) -> float:
        """s, by which A B is multiplied."""
        return self.alpha / (self.rank**0.5 if self.rs else self.rank)


def target_axes(config: LoraConfig, model: Model) -> Axes:
    """The logical axes of the kernels that have adapters, by their paths.

    Raises:
      UserError: if the model has no such kernel.
    """
    wanted = {name for sub, name in SUBLAYERS.items() if config.targets in ("all", sub)}
    found = {
        path: names
        for path, names in logical_axes(model).items()
        if is_matrix(names) and wanted & set(names)
    }
    if not found:
        raise UserError(
            f"a {type(model).__name__} has no kernels of {config.targets} that adapters could "
            "stand beside; leave --lora.rank out"
        )
    return found


def adapter_axes(axes: Axes) -> Axes:
    """The logical axes of the pair beside every kernel: A is split along its kernel's input axis,
    B along its output axis, the rank never."""
    found: dict[str, tuple[str | None, ...]] = {}
    for path, names in axes.items():
        if is_matrix(names) and set(SUBLAYERS.values()) & set(names):
            *stack, inputs, outputs = names
            found[f"{path}/a"] = (*stack, inputs, None)
            found[f"{path}/b"] = (*stack, None, outputs)
    return found


def zero_adapters(config: LoraConfig, model: Model) -> Params:
    """Adapters of zeros, which add nothing; `drawn` makes them learn.

    Raises:
      UserError: if the rank is larger than a kernel's own could be.
    """
    adapters: Params = {}
    shapes = {
        path_name(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(param_shapes(model))
    }
    for path in target_axes(config, model):
        *stack, inputs, outputs = shapes[path]
        if config.rank > min(inputs, outputs):
            raise UserError(
                f"--lora.rank {config.rank} is more than the rank of {path}, {inputs} x {outputs}; "
                f"give at most {min(inputs, outputs)}, or finetune all weights without it"
            )
        *parents, name = path.split("/")
        node = adapters
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = {
            "a": jnp.zeros((*stack, inputs, config.rank)),
            "b": jnp.zeros((*stack, config.rank, outputs)),
        }
    return adapters


def init_adapters(config: LoraConfig, model: Model, key: jax.Array) -> Params:
    """Adapters that add nothing yet, and learn: A ~ N(0, 1/I), B = 0."""
    return drawn(zero_adapters(config, model), key)


def drawn(tree: Any, key: jax.Array) -> Any:
    """A tree in which every A of zeros, from which nothing could be learned, is drawn anew.

    So a stage has one program whether it begins with new adapters or goes on with old ones.

    Args:
      tree: with adapters anywhere in it.
      key: of all draws, each of which has its path, too.
    """

    def one(path: tuple, node: Any) -> Any:
        if not _is_pair(node):
            return node
        a, own = node["a"], jax.random.fold_in(key, zlib.crc32(path_name(path).encode()))
        new = a.shape[-2] ** -0.5 * jax.random.normal(own, a.shape)
        return node | {"a": jnp.where(jnp.any(a != 0), a, new)}

    return jax.tree_util.tree_map_with_path(one, tree, is_leaf=_is_pair)


def attach(backbone: Params, adapters: Params, scale: float | jax.Array) -> Params:
    """Parameters with `Adapted` kernels: x W + s (x A) B for the x W of the backbone's.

    Args:
      backbone: a model's parameters, in any type that `keep_as` knows.
      adapters: with a pair {"a", "b"} where it has a kernel, or {}.
      scale: s, which goes into B.
    """
    if _is_pair(adapters):
        return Adapted(backbone, adapters["a"], adapters["b"] * scale)
    return backbone | {name: attach(backbone[name], part, scale) for name, part in adapters.items()}


def split(params: Params, scale: float | jax.Array) -> tuple[Params, Params]:
    """(backbone, adapters): the inverse of `attach`."""
    if isinstance(params, Adapted):
        return params.kernel, {"a": params.a, "b": params.b / scale}
    if not isinstance(params, Mapping):
        return params, {}
    parts = {name: split(part, scale) for name, part in params.items()}
    return (
        {name: backbone for name, (backbone, _) in parts.items()},
        {name: adapters for name, (_, adapters) in parts.items() if adapters},
    )


def merge(params: Params) -> Params:
    """Plain float32 parameters: W + s A B for every `Adapted` kernel, and nothing in blocks."""

    def one(x: Any) -> jax.Array:
        return x.merged() if isinstance(x, Adapted) else dequantized(x).astype(jnp.float32)

    return jax.tree.map(one, params, is_leaf=lambda x: not isinstance(x, Mapping))


def attached(tree: Any, frozen: Any) -> Any:
    """A tree in which adapters have become parameters: `{"lora": ...}` on `frozen["backbone"]`.

    Args:
      tree: what is learned, or frozen, or a part of it; without adapters it comes back.
      frozen: with the backbone and its `lora_scale`, if there are adapters.
    """
    if not isinstance(tree, Mapping) or not isinstance(frozen, Mapping) or SCALE not in frozen:
        return tree
    for name, place in BACKBONES.items():
        if tree.keys() == {name}:
            backbone = frozen
            for part in place:
                backbone = backbone[part]
            return attach(backbone, tree[name], frozen[SCALE])
    return {name: attached(part, frozen) for name, part in tree.items()}


def on_backbone(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The same loss of whole models, where adapters may be learned and frozen.

    Its gradient, taken of what is learned, is that of the adapters alone.
    """

    def adapted(model: Any, learned: Any, batch: Any, key: Any = None, frozen: Any = None) -> Any:
        return loss(model, attached(learned, frozen), batch, key, attached(frozen, frozen))

    return adapted


def has_adapters(tree: Any) -> bool:
    """Whether there are adapters anywhere in a tree."""
    if not isinstance(tree, Mapping):
        return False
    return any(tree.keys() == {name} for name in BACKBONES) or any(map(has_adapters, tree.values()))


def adapted_shapes(config: LoraConfig, model: Model, whole: Params) -> Params:
    """The shapes of a language model or a scorer whose backbone's weights are adapters.

    Args:
      config, model: of the adapters, of the backbone.
      whole: the shapes without adapters; a scorer's head stays.
    """
    adapters = {ON_BACKBONE: jax.eval_shape(lambda: zero_adapters(config, model))}
    return whole | {"backbone": adapters} if "head" in whole else adapters


def rescaled(tree: Any, old: float, new: float) -> Any:
    """A tree whose adapters, made for one scale, add the same under another."""

    def one(node: Any) -> Any:
        return node | {"b": node["b"] * (old / new)} if _is_pair(node) and old != new else node

    return jax.tree.map(one, tree, is_leaf=_is_pair)


def _is_pair(node: Any) -> bool:
    return isinstance(node, Mapping) and node.keys() == {"a", "b"}
