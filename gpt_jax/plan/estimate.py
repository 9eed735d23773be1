"""Memory and time of a training step by rule of thumb: what to try first, before any compiler.

The planner compiles what looks best here; these numbers are never shown as results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gpt_jax.chips import Chip
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.flops import matmul_weights, training_flops


class Cost(NamedTuple):
    """What distinguishes a stage for the rule of thumb.

    Attributes:
      learned: models with a gradient and an optimizer state.
      frozen: models that only stand by.
      samples: whether it samples; then sequences are not split over devices.
      ranks: whether a row is several completions.
      frozen_bytes: of a weight that is frozen.
    """

    learned: int = 1
    frozen: int = 0
    samples: bool = False
    ranks: bool = False
    frozen_bytes: float = 4.0

    @property
    def bytes(self) -> float:
        """Held per parameter: float32 with its gradient and two moments, and what is frozen."""
        return 16 * self.learned + self.frozen_bytes * self.frozen

    def tuned(self, adapters: bool, frozen_bytes: float) -> Cost:
        """The same where adapters on one backbone are learned, which is all that weighs."""
        cost = self._replace(frozen_bytes=frozen_bytes)
        return cost._replace(learned=0, frozen=1) if adapters else cost


def memory(
    config: ModelConfig, mesh: Mapping[str, int], cost: Cost, micro_rows: float, length: int
) -> float:
    """Bytes per device.

    Saved activations follow Korthikanti et al. 2022, section 4, in bfloat16 and without the
    attention scores: 34 bytes per token and unit of width and layer, of which 10 are not split
    over `tensor`; matmul outputs alone are about half of it.
    """
    c = config
    tensor, chunks = mesh["tensor"], mesh.get("context", 1)
    state = cost.bytes * matmul_weights(c) / (mesh["fsdp"] * tensor)
    tokens = micro_rows * length / chunks
    whole = tokens * c.width * (10 + 24 / tensor)
    saved = {
        "none": c.layers * whole,
        "dots": c.layers * whole / 2 + whole,
        "block": c.layers * tokens * c.width * 2 + whole,
        "offload": whole,
    }[c.remat]
    gathered = 8 * matmul_weights(c) / c.layers / tensor  # two layers' weights at a time
    return state + saved + gathered


def seconds(
    config: ModelConfig,
    mesh: Mapping[str, int],
    rows: int,
    length: int,
    accumulate: int,
    chip: Chip,
) -> float:
    """Of a training step: the longer of computing and communicating.

    Every micro-batch gathers all weights in bfloat16, forward and backward, and scatters their
    gradients; `tensor` reduces four activations per layer (Shoeybi et al. 2020, section 3);
    `context` sends keys and values round a ring, and back with their gradients.
    """
    c, tensor, fsdp = config.resolved(), mesh["tensor"], mesh["fsdp"]
    ring = mesh.get("context", 1)
    devices = mesh["data"] * fsdp * tensor * ring
    recompute = {"none": 1.0, "dots": 1.1}.get(c.remat, 4 / 3)
    compute = recompute * rows * training_flops(c, length) / devices / chip.flops
    passes = 2 + (c.remat != "none")
    weights = accumulate * matmul_weights(c) / tensor * (2 * passes + 4) * (fsdp > 1)
    replicas = 8 * matmul_weights(c) / (fsdp * tensor) * (mesh["data"] > 1)
    activations = 2 * rows * length * c.width * tensor / devices
    reduced = 2 * (4 + 2 * (c.remat == "block")) * c.layers * activations * (tensor > 1)
    keys_values = 2 * rows * length * 2 * c.kv_heads * c.head_size / devices  # of one device
    passed = (ring - 1) * c.layers * (passes + 2) * keys_values
    return max(compute, (weights + replicas + reduced + passed) / chip.link_bandwidth)
