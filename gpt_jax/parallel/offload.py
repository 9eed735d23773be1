"""Frozen parameters that wait in the host's memory, where the platform has some for devices."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh

from gpt_jax.errors import UserError

HOST = "pinned_host"


def check_offload(mesh: Mesh) -> None:
    """Raises a UserError if the mesh's devices cannot read the host's memory."""
    device = mesh.devices.flat[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if HOST not in kinds:
        raise UserError(
            f"{device.device_kind} has no {HOST} memory to offload to, only {', '.join(kinds)}; "
            "leave --ppo.offload-frozen out"
        )


def to_host(tree: Any) -> Any:
    """The arrays in the host's memory, split over the devices' hosts as they were."""
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind(HOST)), tree)


def to_device(tree: Any) -> Any:
    """Inside `jax.jit`: copies of offloaded arrays where the computation can use them."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device), tree)
