"""The device mesh: which chips share the batch, the parameters and the matrices."""

from __future__ import annotations

import dataclasses
import math

import jax
from jax.sharding import AxisType, Mesh

from gpt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices are arranged; the product must be the number of devices used."""

    data: int = -1
    """Replicas of the model, each with its own rows; -1 takes all devices left over."""
    fsdp: int = 1
    """Shards of every parameter (gathered when used), which also split the batch."""
    tensor: int = 1
    """Shards of every matrix's heads, feed-forward or vocabulary axis."""


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Arranges the devices as a mesh with axes `data, fsdp, tensor`.

    With all three sizes given, the first `data * fsdp * tensor` devices are used; with `data=-1`
    the devices must divide by `fsdp * tensor`.

    Raises:
      UserError: if the sizes do not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    if config.fsdp < 1 or config.tensor < 1 or config.data == 0 or config.data < -1:
        raise UserError(f"mesh axes must be positive (only data may be -1), not {config}")
    inner = config.fsdp * config.tensor
    if config.data == -1 and len(devices) % inner:
        raise UserError(
            f"{len(devices)} devices do not divide by fsdp={config.fsdp} x tensor={config.tensor}; "
            "choose sizes whose product divides the number of devices"
        )
    shape = (
        len(devices) // inner if config.data == -1 else config.data,
        config.fsdp,
        config.tensor,
    )
    needed = math.prod(shape)
    if needed > len(devices):
        raise UserError(
            f"the mesh {shape[0]} x {shape[1]} x {shape[2]} needs {needed} devices and there are "
            f"{len(devices)}; lower data, fsdp or tensor"
        )
    return jax.make_mesh(
        shape, ("data", "fsdp", "tensor"), devices=devices[:needed], axis_types=(AxisType.Auto,) * 3
    )
