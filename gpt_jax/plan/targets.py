"""Accelerators to compile for that are not attached to this machine.

The packages of the extra `plan` hold the real compilers: `libtpu` for every TPU, and JAX's CUDA
plugin (without CUDA's own libraries) for NVIDIA GPUs. Both compile for a described machine; what
comes out cannot run here, but it lowers, fits or does not fit, and says what it costs.

    devices = targets.devices("v5e:4x4")        # a TPU slice, by its published name
    devices = targets.devices("h100:8")         # a node of eight GPUs
"""

from __future__ import annotations

import os
from pathlib import Path

import jax
from jax.experimental import topologies

from gpt_jax.errors import UserError

DESCRIPTIONS = Path(__file__).with_name("chip_descriptions")

# What libtpu would otherwise ask a metadata server for, at length.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is used, so two compilers may run side by side
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}


def devices(name: str) -> list[jax.Device]:
    """The chips of a TPU slice (`v5e:4x4`, `v5p:8x8x8`, `v6e:2x4`) or GPU node (`h100:8`).

    Raises:
      UserError: if there is no such machine, or its compiler is not installed.
    """
    chip, _, shape = name.partition(":")
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    description = DESCRIPTIONS / f"{chip}.txtpb"
    if description.is_file():
        platform, package = "cuda", "jax-cuda13-plugin"
        arguments = {"target_config": description.read_text(), "topology": f"1x{shape}x1"}
    else:
        platform, package, arguments = "tpu", "libtpu", {"topology_name": name}
        if chip == "v4":
            arguments["chip_config_name"] = "megacore"  # one device per chip, as at run time
    try:
        return list(topologies.get_topology_desc(platform=platform, **arguments).devices)
    except Exception as error:  # the plugins raise several kinds
        cause = str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot compile for {name} ({cause}); name a TPU slice such as v5e:4x4 or a GPU node "
            f'such as h100:8, and see that {package} is installed: pip install -e ".[plan]"'
        ) from error
