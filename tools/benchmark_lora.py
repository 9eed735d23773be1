"""What adapters spare: time and memory of a finetuning step, against learning all weights.

    python -m tools.benchmark_lora
    python -m tools.benchmark_lora --frozen-dtype int8 --rank 64

The contestants take turns in one process, a step each, on the same random rows. The seconds are of
the processor, so that other work on the machine falls on none of them; the table gives medians
over the rounds, and the ratio the median of the rounds' own ratios.

Hardware and time: 2 CPU cores, about a minute.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from gpt_jax import terminal
from gpt_jax.data.batches import Batch, Tokens
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models import ModelConfig, init
from gpt_jax.models.heads import axes_of
from gpt_jax.models.lora import SCALE, LoraConfig
from gpt_jax.models.presets import tiny
from gpt_jax.models.quantized import keep_as
from gpt_jax.ranges import Positive, check_ranges
from gpt_jax.train.adapters import FrozenDtype
from gpt_jax.train.gradient import gradient_functions
from gpt_jax.train.host import keep_freed_memory
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.stage import TrainConfig
from gpt_jax.train.tuning import Start, Tuned

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Config:
    rows: Positive = 16
    """Per step, each as long as the model's context."""
    rank: Positive = 16
    """Of the adapters."""
    frozen_dtype: FrozenDtype = None
    """How the backbone under them is kept."""
    rounds: Positive = 9
    """In each of which every contestant takes a step."""

    def __post_init__(self):
        check_ranges(self)


class Contestant(NamedTuple):
    """Attributes:
    step: takes one, from a state that lies within, and waits for it.
    learned, frozen, temporary: mebibytes of the state (moments included), of what stays, and of
      what a step needs beside both.
    """

    step: Any
    learned: float
    frozen: float
    temporary: float


def contestant(config: Config, model: ModelConfig, lora: LoraConfig) -> Contestant:
    """A finetuning stage's own step."""
    dtype = config.frozen_dtype if lora.rank else None
    start = Start(Tuned(run_dir="", init_from="", lora=lora, frozen_dtype=dtype), model)
    functions = gradient_functions(
        model,
        lm_loss,
        OptimizerConfig(),
        TrainConfig(steps=1000),
        start.first(lambda seed, params: params),
    )
    params = init(model, jax.random.key(0))
    origin, frozen = start.shapes()
    if lora.rank:
        kept = keep_as(params, axes_of(model), dtype)
        frozen = {"backbone": kept, SCALE: np.float32(lora.scale)}
        (params,) = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), origin)
    state = jax.jit(functions.init)(np.uint32(0), params)
    shape = (config.rows, model.context_length)
    ids_BT = np.random.default_rng(0).integers(0, model.vocab_size, shape, np.int32)
    positions_BT = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    tokens_BT = Tokens(ids_BT, positions_BT, np.ones(shape, np.int32))
    batch = Batch(tokens_BT, np.ones(shape, np.float32))
    learned = _mebibytes(state)
    compiled = functions.step.lower(state, batch, frozen).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes / MIB
    held = [state]

    def step() -> None:
        held[0], _ = jax.block_until_ready(compiled(held[0], batch, frozen))

    return Contestant(step, learned, _mebibytes(frozen), temporary)


def _mebibytes(tree: Any) -> float:
    return sum(x.nbytes for x in jax.tree.leaves(tree)) / MIB


def main(config: Config) -> dict[str, dict[str, float]]:
    """Prints the table and returns its numbers."""
    keep_freed_memory()
    model = tiny(vocab_size=1024)
    kinds = {"all weights": LoraConfig(), f"rank {config.rank}": LoraConfig(rank=config.rank)}
    found = {name: contestant(config, model, lora) for name, lora in kinds.items()}
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(config.rounds + 1):
        for name, one in list(found.items())[:: -1 if turn % 2 else 1]:
            start = time.process_time()
            one.step()
            seconds[name].append(time.process_time() - start)
    seconds = {name: times[1:] for name, times in seconds.items()}  # the first touches new memory
    whole = seconds["all weights"]
    print("learned          CPU s/step  of all weights  state MiB  frozen MiB  temporary MiB")
    results = {}
    for name, one in found.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], whole, strict=True))
        row = {
            "seconds": statistics.median(seconds[name]),
            "ratio": ratio,
            "state": one.learned,
            "frozen": one.frozen,
            "temporary": one.temporary,
        }
        results[name] = row
        print(
            f"{name:15s}  {row['seconds']:10.3f}  {ratio:14.2f}  {row['state']:9.1f}  "
            f"{row['frozen']:10.1f}  {row['temporary']:13.1f}"
        )
    return results


if __name__ == "__main__":
    with terminal.ending_plainly():
        main(tyro.cli(Config, description=__doc__))
