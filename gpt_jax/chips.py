"""What an accelerator can do, per JAX device: the numbers behind a roofline and an MFU.

Sources: Google Cloud's "System architecture" page of each TPU (peak bfloat16 FLOP/s, HBM and ICI
bandwidth; ICI is given there in both directions together, here in one); NVIDIA's data sheets of
the SXM modules (dense bfloat16, NVLink one way). HBM is what the compiler lets a program have,
which on a TPU is a little less than the chip's, and on a GPU what the module carries. A TPU7x chip
is two devices, each with half of everything.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device. Bandwidths are bytes per second.

    Attributes:
      kinds: how `jax.Device.device_kind` may call it.
      hbm_bytes: memory for a program.
      flops: peak bfloat16 FLOP/s of the matrix units.
      hbm_bandwidth: of the memory.
      link_bandwidth: what a device can send over all its links together; a collective along one
        axis of a torus has only that axis' links, so this is the best case.
    """

    kinds: tuple[str, ...]
    hbm_bytes: float
    flops: float
    hbm_bandwidth: float
    link_bandwidth: float


CHIPS: dict[str, Chip] = {
    "v4": Chip(("TPU v4",), 31.25 * GIB, 275e12, 1200e9, 300e9),
    "v5e": Chip(("TPU v5 lite", "TPU v5e"), 15.75 * GIB, 197e12, 819e9, 200e9),
    "v5p": Chip(("TPU v5", "TPU v5p"), 95.74 * GIB, 459e12, 2765e9, 600e9),
    "v6e": Chip(("TPU v6 lite", "TPU v6e"), 31.25 * GIB, 918e12, 1600e9, 400e9),
    "tpu7x": Chip(("TPU7x",), 94.75 * GIB, 2307e12 / 2, 7380e9 / 2, 600e9 / 2),
    "a100": Chip(("NVIDIA A100-SXM4-80GB",), 80e9, 312e12, 2039e9, 300e9),
    "h100": Chip(("NVIDIA H100 80GB HBM3",), 80e9, 989e12, 3350e9, 450e9),
    "h200": Chip(("NVIDIA H200",), 141e9, 989e12, 4800e9, 450e9),
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip with this `jax.Device.device_kind`; None if it is not in the table."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)
