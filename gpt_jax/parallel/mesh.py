"""The device mesh: which chips share the batch, the parameters and the matrices."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from gpt_jax.errors import UserError
from gpt_jax.ranges import Positive, Range, check_ranges


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices are arranged; the product must be the number of devices used."""

    data: Annotated[int, Range(-1, 2**31 - 1)] = -1
    """Replicas of the model, each with its own rows; -1 takes all devices left over."""
    fsdp: Positive = 1
    """Shards of every parameter (gathered when used), which also split the batch."""
    tensor: Positive = 1
    """Shards of every matrix's heads, feed-forward or vocabulary axis."""
    context: Positive = 1
    """Chunks of every sequence, for ring attention; a sequence that does not divide stays whole,
    and so does decoding."""

    def __post_init__(self):
        check_ranges(self)
        if self.data == 0:
            raise UserError("data is 0, but must be -1 (all devices left over) or more than 0")


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Arranges the devices as a mesh with axes `data, fsdp, context, tensor`.

    Neighbours in the mesh are neighbours on a TPU's torus; `tensor`, which talks most, comes
    last, so that on GPUs it stays within a node. With all sizes given, the first devices that
    make up their product are used; with `data=-1` the devices must divide by the others.

    Raises:
      UserError: if the sizes do not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    others = {"fsdp": config.fsdp, "context": config.context, "tensor": config.tensor}
    inner = math.prod(others.values())
    if config.data == -1 and len(devices) % inner:
        product = " x ".join(f"{name}={size}" for name, size in others.items())
        raise UserError(
            f"{len(devices)} devices do not divide by {product}; "
            "choose sizes whose product divides the number of devices"
        )
    sizes = {"data": len(devices) // inner if config.data == -1 else config.data} | others
    needed = math.prod(sizes.values())
    if needed > len(devices):
        product = " x ".join(f"{name}={size}" for name, size in sizes.items())
        raise UserError(
            f"the mesh {product} needs {needed} devices and there are {len(devices)}; "
            "lower one of its axes"
        )
    shape, kinds = tuple(sizes.values()), (AxisType.Auto,) * len(sizes)
    devices = devices[:needed]
    try:
        return jax.make_mesh(shape, tuple(sizes), devices=devices, axis_types=kinds)
    except NotImplementedError:
        # An axis is a part of one of the torus' axes (8 of 24): its neighbours share links.
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(grid, tuple(sizes), axis_types=kinds)


def platform() -> str:
    """What the program being traced is compiled for: "cpu", "tpu" or "gpu".

    Asked of the mesh in use, whose devices need not be attached to this machine.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
