"""Plans a program for a machine that need not be there: does it fit, and how fast can it be?

The program is compiled by the machine's own compiler from shapes alone. What fits is the
compiler's answer; how fast is a roofline (Williams et al. 2009): the longest of the times that
the matrix units, the memory and the links need if each runs at its peak and all at once.
"""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

from gpt_jax.chips import GIB, Chip
from gpt_jax.errors import UserError
from gpt_jax.parallel.rules import path_name
from gpt_jax.plan import hlo
from gpt_jax.plan.traced import traced_flops


class DoesNotFit(UserError):
    """The compiler, or the sum of what it wants, says that a program exceeds the memory."""


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program on one device of the mesh; bytes and FLOPs are of one execution.

    Attributes:
      name: for people.
      runs: how often one training step executes it.
      argument_bytes: what it is given: parameters, optimizer state, batch.
      temporary_bytes: what it needs beside its arguments and results at the worst moment.
      hbm_bytes: all that must be in memory at once, by the compiler.
      flops: of its matrix products, Pallas kernels included.
      traced_flops: this device's share of what was asked for; less than `flops` where the
        partitioner made devices repeat each other's work.
      traffic_bytes: read from and written to HBM.
      collective_bytes: sent to other devices, by kind.
      seconds: at peak, of the three resources.
      compile_seconds: how long the compiler took here.
    """

    name: str
    runs: int
    argument_bytes: float
    temporary_bytes: float
    hbm_bytes: float
    flops: float
    traced_flops: float
    traffic_bytes: float
    collective_bytes: dict[str, float]
    seconds: dict[str, float]
    compile_seconds: float

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        return max(self.seconds, key=self.seconds.get)

    @property
    def roofline_seconds(self) -> float:
        return self.runs * max(self.seconds.values())


def compile_program(
    name: str, function: Any, args: tuple, runs: int, *, mesh: Mesh, chip: Chip
) -> Program:
    """Compiles a jitted function for the devices of `mesh`.

    Args:
      name: for people.
      function: from `jax.jit`.
      args: trees of ShapeDtypeStructs with shardings.
      runs: executions per training step.
      mesh: of `targets.devices`.
      chip: one of them.

    Raises:
      DoesNotFit: with the compiler's numbers and the largest tensor of the arguments.
    """
    started = time.monotonic()
    if sum(shard_bytes(args).values()) > chip.hbm_bytes:
        raise DoesNotFit(_exhausted(name, "", args, chip))
    asked = traced_flops(function, *jax.tree.map(_whole, args))
    with jax.set_mesh(mesh):
        try:
            compiled = function.lower(*args).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise DoesNotFit(_exhausted(name, str(error), args, chip)) from error
    memory = compiled.memory_analysis()
    hbm_bytes = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    if hbm_bytes > chip.hbm_bytes:  # a GPU's compiler does not refuse
        raise DoesNotFit(
            _exhausted(name, f"needs {memory.temp_size_in_bytes / GIB:.1f}G", args, chip)
        )
    cost = hlo.cost(compiled.as_text())
    traced = asked / mesh.size
    # HLO does not see into kernels: where it sees less than was asked for, they do the rest.
    flops = max(cost.flops, traced)
    return Program(
        name=name,
        runs=runs,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        hbm_bytes=hbm_bytes,
        flops=flops,
        traced_flops=traced,
        traffic_bytes=cost.hbm_bytes,
        collective_bytes=cost.collective_bytes,
        seconds={
            "compute": flops / chip.flops,
            "HBM": cost.hbm_bytes / chip.hbm_bandwidth,
            "interconnect": sum(cost.collective_bytes.values()) / chip.link_bandwidth,
        },
        compile_seconds=time.monotonic() - started,
    )


def _whole(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def shard_bytes(tree: Any) -> dict[str, float]:
    """Bytes on one device of every ShapeDtypeStruct of a tree, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        path_name(path): float(_shard_elements(leaf) * leaf.dtype.itemsize)
        for path, leaf in leaves
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }


def _shard_elements(leaf: jax.ShapeDtypeStruct) -> int:
    shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
    size = 1
    for axis in shape:
        size *= axis
    return size


def _exhausted(name: str, message: str, args: tuple, chip: Chip) -> str:
    """One sentence: what is needed, what there is, and the largest tensor by name."""
    held = shard_bytes(args)
    largest = max(held, key=held.get)
    needed = re.search(r"(?:Used|needs|temporaries \() *([\d.]+[KMGT])", message)
    beside = f" and, by the compiler, {needed[1]}iB of temporaries" if needed else ""
    return (
        f"the {name} does not fit: a device of {chip.hbm_bytes / GIB:.1f} GiB would hold "
        f"{sum(held.values()) / GIB:.1f} GiB of arguments{beside}; the largest argument is "
        f"{largest}, {held[largest] / GIB:.2f} GiB per device"
    )
