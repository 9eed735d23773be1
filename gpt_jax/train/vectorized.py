"""One stage for many seeds: their states side by side, and one program that takes all a step on.

All that two seeds differ in is in their states and batches, so the step of one, mapped over a
leading axis S, is that of all. `vmap` widens every operation by that axis, which fills an
accelerator that a small model leaves idle. On a CPU it takes a third more time and several times
the memory (docs/seeds.md). There, and where `vmap` needs more memory than there is, `lax.map` goes
through the seeds one after the other inside one program: compiled once, too, with the activations
of one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.data import pipeline
from gpt_jax.data.lengths import ByLength
from gpt_jax.parallel.mesh import platform
from gpt_jax.train import state as states
from gpt_jax.train.stage import Parameters, Stage
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import Step

How = Literal["vmap", "map"]


class Frozen(NamedTuple):
    """The frozen parameters of all seeds; either part has some of the names.

    Attributes:
      common: what all seeds have in common lies there once.
      own: has a leading axis of seeds.
    """

    common: dict
    own: dict

    def of(self, place: int) -> dict:
        """What one seed's step is given."""
        return self.common | one(self.own, place)


def one(tree: Any, place: int) -> Any:
    """The part of one seed of arrays with a leading axis of seeds."""
    return _one(tree, np.int32(place)) if jax.tree.leaves(tree) else tree


@jax.jit
def _one(tree: Any, place: jax.Array) -> Any:
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, place, axis=0, keepdims=False), tree
    )


def stack(trees: Sequence[Any]) -> Any:
    """Arrays of many seeds side by side, each still split over the mesh as it was."""

    def sharding(x: jax.Array) -> NamedSharding | None:
        if not isinstance(x.sharding, NamedSharding):
            return None
        return NamedSharding(x.sharding.mesh, PartitionSpec(None, *x.sharding.spec))

    places = jax.tree.map(sharding, trees[0])
    return _stacker(jax.tree.structure(places), tuple(jax.tree.leaves(places)))(*trees)


@functools.lru_cache(maxsize=16)
def _stacker(tree: Any, places: tuple) -> Callable[..., Any]:
    out = jax.tree.unflatten(tree, places) if places else None
    return jax.jit(lambda *trees: jax.tree.map(_join, *trees), out_shardings=out)


def _join(*xs: jax.Array) -> jax.Array:
    return jnp.stack(xs)


def why_in_turn(stages: Sequence[Stage]) -> str | None:
    """Why these stages, of one seed each, cannot be one; None if they can."""
    if not hasattr(stages[0].functions.step, "lower"):
        return "a part of each step runs on the host, between two programs"
    if isinstance(stages[0].batch_at, ByLength):
        return "batches that are grouped by length are of several widths"

    def form(stage: Stage) -> tuple:
        arrays, tree = jax.tree.flatten((stage.batch_at(0), stage.shapes))
        return stage.model, stage.train, tree, [(x.shape, x.dtype) for x in arrays]

    if any(form(stage) != form(stages[0]) for stage in stages[1:]):
        return "their data differ in number or in length"
    return None


def step_of_all(step: Step, how: How) -> Step:
    """`step_all(states, batches, frozen: Frozen)`, jitted, which takes every seed a step on.

    Args:
      step: of one seed, jitted.
      how: all at once, or one after the other.
    """

    def step_all(states: TrainState, batches: Sequence[Any], frozen: Frozen):
        batches = jax.tree.map(_join, *batches)

        def one_step(inputs):
            state, batch, own = inputs
            return step(state, batch, frozen.common | own)

        mapped = jax.vmap(one_step) if how == "vmap" else functools.partial(jax.lax.map, one_step)
        return mapped((states, batches, frozen.own))

    return jax.jit(step_all, donate_argnums=0)


def vectorized(stages: Sequence[Stage], how: How) -> Stage:
    """The stage of all seeds, for `fit`.

    Its metrics are arrays (S,). A program is the first seed's, since a seed is an argument;
    batches, held-out rows and what is done at the end are each seed's own. Evaluation goes through
    the seeds in turn, in one program.
    """
    first = stages[0]

    def derive(values: dict[str, Any]) -> dict[str, np.ndarray]:
        return _arrays(
            stage.derive({k: v[s] if np.ndim(v) else v for k, v in values.items()})
            for s, stage in enumerate(stages)
        )

    def evaluate(state: TrainState, frozen: Frozen) -> dict[str, np.ndarray]:
        return _arrays(
            stage.evaluate(one(state, s), frozen.of(s)) for s, stage in enumerate(stages)
        )

    def finish(state: TrainState, frozen: Frozen) -> TrainState:
        return stack([stage.finish(one(state, s), frozen.of(s)) for s, stage in enumerate(stages)])

    return dataclasses.replace(
        first,
        functions=first.functions._replace(step=step_of_all(first.functions.step, how)),
        batch_at=lambda step: tuple(stage.batch_at(step) for stage in stages),
        row_numbers=lambda step: np.stack([stage.row_numbers(step) for stage in stages]),
        evaluate=evaluate if first.evaluate else None,
        samples=(lambda params: first.samples(one(params, 0))) if first.samples else None,
        finish=finish if first.finish else None,
        derive=derive,
    )


def _arrays(of_seeds) -> dict[str, np.ndarray]:
    rows = list(of_seeds)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def load_all(stages: Sequence[Stage], same: bool, mesh: Mesh) -> tuple[list[tuple], Frozen]:
    """The origins of all seeds, and what is frozen.

    Args:
      stages: of one seed each.
      same: whether all start from the very same folders, which are then read once.
      mesh: where the parameters go.
    """
    loaded: list[Parameters] = []
    for stage in stages:
        found = loaded[0] if same and loaded else stage.load(mesh)
        if loaded:  # what is equal is kept once, and not as often as there are seeds
            known = loaded[0].frozen
            kept = {k: known[k] if _equal(known[k], v) else v for k, v in found.frozen.items()}
            found = found._replace(frozen=kept)
        loaded.append(found)
    first = loaded[0].frozen
    common = {k: v for k, v in first.items() if all(one.frozen[k] is v for one in loaded)}
    own = {k: stack([one.frozen[k] for one in loaded]) for k in first if k not in common}
    return [one.origin for one in loaded], Frozen(common, own)


@jax.jit
def _all_equal(a: Any, b: Any) -> jax.Array:
    return jnp.stack(jax.tree.leaves(jax.tree.map(jnp.array_equal, a, b))).all()


def _equal(a: Any, b: Any) -> bool:
    return a is b or not jax.tree.leaves(a) or bool(_all_equal(a, b))


def choose(stages: Sequence[Stage], mesh: Mesh) -> tuple[How | None, str]:
    """How the seeds are gone through on this mesh, and the reason, for people.

    None is in turn: where even the states of all do not fit in the devices' memory.
    """
    if platform() == "cpu":
        return "map", "one after the other, which on a CPU is faster"
    room = (mesh.devices.flat[0].memory_stats() or {}).get("bytes_limit", math.inf)
    needed = {}
    for how, said in (("vmap", "all at once"), ("map", "one after the other")):
        needed[how] = bytes_needed(stages, mesh, how)
        if needed[how] <= room:
            more = f", since all at once would need {_gib(needed['vmap'])}" if how == "map" else ""
            return how, f"{said}, with {_gib(needed[how])} of {_gib(room)}{more}"
    return None, f"together they would need {_gib(needed['map'])} of {_gib(room)}"


def bytes_needed(stages: Sequence[Stage], mesh: Mesh, how: How) -> int:
    """Memory of a device that the step of all seeds takes; what they start from counts once.

    It is compiled for that, and again when it runs, then out of the compilation cache.
    """
    (init, step, axes), (origin, frozen) = stages[0].functions, stages[0].shapes

    def many(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, PartitionSpec(None, *x.sharding.spec))
        return jax.ShapeDtypeStruct((len(stages), *x.shape), x.dtype, sharding=sharding)

    state = states.abstract(init, np.uint32(0), *origin, mesh=mesh, axes=axes)
    batches = tuple(pipeline.shapes(stage.batch_at(0), mesh) for stage in stages)
    lowered = step_of_all(step, how).lower(jax.tree.map(many, state), batches, Frozen(frozen, {}))
    memory = lowered.compile().memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
