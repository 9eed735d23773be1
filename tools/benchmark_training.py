"""Training speed of the tiny model, against the same model in plain PyTorch.

    pip install -e ".[parity]"
    python -m tools.benchmark_training
    python -m tools.benchmark_training --output speed.json

Two CPU cores, about two minutes. Both sides train the same GPT-2 shape (1M parameters, float32)
on the same random tokens with AdamW and clipping by global norm. They take turns in one process,
a few steps each, so that whatever else the machine does falls on all of them alike; the table
gives medians over the rounds, and the ratio the median of the rounds' own ratios against the
faster of PyTorch eager and `torch.compile`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gpt_jax import terminal
from gpt_jax.data.batches import Tokens
from gpt_jax.errors import UserError
from gpt_jax.models import ModelConfig, forward, init, token_nll
from gpt_jax.models.presets import tiny
from gpt_jax.ranges import NonNegative, NonNegativeFloat, Positive, check_ranges
from gpt_jax.train.host import keep_freed_memory


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """B sequences of the model's context length per step; `rounds` turns of `steps` steps each."""

    batch: Positive = 32
    vocab_size: Positive = 1024
    learning_rate: NonNegativeFloat = 1e-3
    rounds: Positive = 10
    steps: Positive = 4
    warmup: NonNegative = 3

    def __post_init__(self):
        check_ranges(self)


def main(benchmark: Benchmark, output: Path | None = None) -> dict[str, float]:
    """Prints the table and returns {contestant: tokens per second, "ratio": ...}."""
    keep_freed_memory()
    config = tiny(vocab_size=benchmark.vocab_size)
    shape = (benchmark.batch, config.context_length)
    tokens_BT = np.random.default_rng(0).integers(0, config.vocab_size, shape, np.int32)
    contestants = {
        "gpt_jax": jax_step(config, benchmark, tokens_BT),
        "PyTorch eager": torch_step(config, benchmark, tokens_BT, compiled=False),
        "PyTorch compiled": torch_step(config, benchmark, tokens_BT, compiled=True),
    }
    seconds = time_in_turns(contestants, benchmark)
    speed = {name: tokens_BT.size / statistics.median(rounds) for name, rounds in seconds.items()}
    rival = max((name for name in speed if name != "gpt_jax"), key=speed.get)
    ratio = statistics.median(
        theirs / ours for theirs, ours in zip(seconds[rival], seconds["gpt_jax"], strict=True)
    )
    for name, tokens_per_second in speed.items():
        print(f"{name:<18}{tokens_per_second:>10,.0f} tokens/s")
    print(f"gpt_jax / {rival}: {ratio:.2f}")
    result = {**speed, "ratio": ratio}
    if output is not None:
        output.write_text(json.dumps(result, indent=2) + "\n")
    return result


def time_in_turns(
    contestants: dict[str, Callable[[], None]], benchmark: Benchmark
) -> dict[str, list[float]]:
    """Seconds per step of every contestant in every round."""
    for step in contestants.values():
        for _ in range(benchmark.warmup):
            step()
    seconds = {name: [] for name in contestants}
    for _ in range(benchmark.rounds):
        for name, step in contestants.items():
            start = time.perf_counter()
            for _ in range(benchmark.steps):
                step()
            seconds[name].append((time.perf_counter() - start) / benchmark.steps)
    return seconds


def jax_step(
    config: ModelConfig, benchmark: Benchmark, tokens_BT: np.ndarray
) -> Callable[[], None]:
    """One training step of gpt_jax, as a function without arguments."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(benchmark.learning_rate, weight_decay=0.01)
    )
    ids_BT = jnp.asarray(tokens_BT)
    positions_BT = jnp.broadcast_to(jnp.arange(ids_BT.shape[1]), ids_BT.shape)
    tokens_BT = Tokens(ids_BT, positions_BT, jnp.ones_like(ids_BT))

    def loss_fn(params, tokens_BT):
        hidden_BTD, _ = forward(config, params, tokens_BT)
        targets_BT = jnp.roll(tokens_BT.ids, -1, axis=1)
        weights_BT = jnp.ones(targets_BT.shape).at[:, -1].set(0.0)
        return token_nll(config, params, hidden_BTD, targets_BT, weights_BT) / weights_BT.sum()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params, optimizer_state, tokens_BT):
        loss, gradients = jax.value_and_grad(loss_fn)(params, tokens_BT)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, loss

    params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
    state = [params, optimizer.init(params)]

    def step():
        *state[:], loss = train_step(*state, tokens_BT)
        float(loss)

    return step


def torch_step(
    config: ModelConfig, benchmark: Benchmark, tokens_BT: np.ndarray, compiled: bool
) -> Callable[[], None]:
    """One training step of the same model in plain PyTorch."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            'This comparison needs PyTorch; install it with pip install -e ".[parity]".'
        ) from error
    from torch import nn
    from torch.nn import functional as F

    D, heads = config.width, config.heads

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn_norm, self.mlp_norm = nn.LayerNorm(D), nn.LayerNorm(D)
            self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
            self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

        def forward(self, x):
            B, T, _ = x.shape
            q, k, v = (
                part.view(B, T, heads, D // heads).transpose(1, 2)
                for part in self.qkv(self.attn_norm(x)).split(D, dim=-1)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
            return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))

    class GPT2(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(config.vocab_size, D)
            self.positions = nn.Embedding(config.context_length, D)
            self.blocks = nn.Sequential(*[Block() for _ in range(config.layers)])
            self.final_norm = nn.LayerNorm(D)
            for embedding in (self.tokens, self.positions):
                nn.init.normal_(embedding.weight, std=0.02)

        def forward(self, tokens):
            x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
            logits = self.final_norm(self.blocks(x)) @ self.tokens.weight.T
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    torch.manual_seed(0)
    model = GPT2()
    optimizer = torch.optim.AdamW(model.parameters(), benchmark.learning_rate, fused=True)
    loss_fn = torch.compile(model) if compiled else model
    tokens = torch.from_numpy(tokens_BT).long()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_fn(tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="also write the numbers here, as JSON")
    parser.add_argument("--rounds", type=int, default=Benchmark.rounds)
    with terminal.ending_plainly():
        arguments = parser.parse_args()
        main(Benchmark(rounds=arguments.rounds), arguments.output)
