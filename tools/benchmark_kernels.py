"""The speed of every kernel on the device at hand, against what a user would take instead.

    python -m tools.benchmark_kernels
    python -m tools.benchmark_kernels --output bench.json
    python -m tools.benchmark_kernels --refresh-blocks        # measure tiles for Triton attention

On a CPU the shapes are small and it takes a minute; on a GPU or TPU they are those of training.
Every contestant is first held against float32; one that is wrong is not timed. Then they take
turns, so that whatever else the machine does falls on all alike. The table gives medians over the
rounds; "share" is of the ceiling measured in the same run (a large matmul, a large copy), "MiB"
the scratch memory of the program, and "ours is" the median of the rounds' own ratios: above 1
where `gpt_jax`, what `implementation=None` picks, is faster.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from gpt_jax import terminal
from gpt_jax.errors import UserError
from gpt_jax.kernels.attention import attention, pallas_gpu, triton
from gpt_jax.kernels.attention.api import kernel, make_options
from gpt_jax.kernels.decode_attention import decode_attention
from gpt_jax.kernels.decode_attention.api import KERNELS as DECODE_KERNELS
from gpt_jax.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_sum,
)
from tools import contestants
from tools.timing import Case, Result, finish, measure, measure_ceilings, take_turns

ROUNDS = 11
# (B, T, N, K, H) of attention, (B, S, N, K, H) of decoding, (M, D, V) of the loss.
SMALL = [(2, 256, 4, 2, 64)], [(4, 512, 4, 2, 64)], [(512, 128, 1024)]
LARGE = (
    [
        (16384 // T, T, *heads)
        for heads in ((32, 32, 64), (16, 16, 128), (32, 8, 128))
        for T in (1024, 4096, 8192, 16384)
    ],
    [(64, 4096, 32, 8, 128)],
    [(16384, 768, 50304), (16384, 4096, 151936)],
)
OUR_KERNELS = {"cpu": (), "gpu": ("pallas_gpu", "mosaic_gpu"), "tpu": ("pallas_tpu",)}


def main(rounds: int = ROUNDS, output: Path | None = None) -> list[Result]:
    """Prints the table and returns its lines."""
    device = jax.devices()[0]
    small = device.platform == "cpu"
    dtype = jnp.dtype("float32" if small else "bfloat16")
    attention_sizes, decoding_sizes, loss_sizes = SMALL if small else LARGE
    ceilings = measure_ceilings(1024 if small else 8192, dtype, rounds)
    title = (
        f"{device.device_kind}, JAX {jax.__version__}, {time.strftime('%Y-%m-%d')}, {dtype}; "
        f"ceilings {ceilings['TFLOP/s'] / 1e12:.3g} TFLOP/s, {ceilings['GB/s'] / 1e9:.4g} GB/s"
    )
    results = []
    for case in itertools.chain(
        *(attention_cases(*size, dtype) for size in attention_sizes),
        (decoding_case(*size, dtype) for size in decoding_sizes),
        *(loss_cases(*size, dtype) for size in loss_sizes),
    ):
        print(case.name, file=sys.stderr, flush=True)
        results += [(case, result) for result in measure(case, ceilings, rounds)]
    Console(width=max(110, Console().width)).print(as_table(title, results))
    lines = [result for _, result in results]
    if output:
        report = {"title": title, "ceilings": ceilings, "results": [x._asdict() for x in lines]}
        output.write_text(json.dumps(report, indent=1) + "\n")
    return lines


def attention_cases(B: int, T: int, N: int, K: int, H: int, dtype) -> list[Case]:
    """Causal self-attention over one document: forward, and forward with all gradients."""
    arrays = normal(dtype, (B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N, H))
    segments_BT = jnp.ones((B, T), jnp.int32)

    def ours(q, k, v, implementation=None):
        return attention(
            q,
            k,
            v,
            q_segment_ids_BT=segments_BT,
            kv_segment_ids_BS=segments_BT,
            implementation=implementation,
        )

    options = make_options(arrays[0], True, None, None, None)
    names = OUR_KERNELS[jax.devices()[0].platform]
    names = [name for name in names if kernel(name).takes(*arrays[:2], options)]
    by_xla = functools.partial(ours, implementation="xla")
    forwards = {"gpt_jax": ours}
    forwards |= {f"  {name}": functools.partial(ours, implementation=name) for name in names}
    forwards |= (
        {"  xla": by_xla}
        | contestants.jax_nn(is_causal=True)
        | {"jax.experimental": contestants.pallas_ops}
    )
    torch_forward, torch_both = contestants.torch_attention(*arrays, causal=True)
    operations = 2 * B * N * T * T * H  # Two matmuls, half of whose products are hidden.
    shape = f"B {B} T {T} N {N}/{K} H {H}"
    return [
        Case(
            f"attention, forward, {shape}",
            operations,
            "TFLOP/s",
            arrays[:3],
            by_xla,
            forwards,
            {"PyTorch SDPA": torch_forward},
        ),
        Case(
            f"attention, forward + backward, {shape}",
            3.5 * operations,
            "TFLOP/s",
            arrays,
            with_gradients(by_xla),
            {name: with_gradients(function) for name, function in forwards.items()},
            {"PyTorch SDPA": torch_both},
        ),
    ]


def decoding_case(B: int, S: int, N: int, K: int, H: int, dtype) -> Case:
    """One new token per row against a full cache; counts the bytes of the cache."""
    arrays = normal(dtype, (B, 1, N, H), (B, S, K, H), (B, S, K, H))
    ours = functools.partial(decode_attention, lengths_B=S)
    by_xla = functools.partial(ours, implementation="xla")
    names = [name for name in OUR_KERNELS[jax.devices()[0].platform] if name in DECODE_KERNELS]
    forwards = {"gpt_jax": ours}
    forwards |= {f"  {name}": functools.partial(ours, implementation=name) for name in names}
    torch_forward, _ = contestants.torch_attention(*arrays, arrays[0], causal=False)
    return Case(
        f"decode_attention, B {B} S {S} N {N}/{K} H {H}",
        arrays[1].nbytes + arrays[2].nbytes,
        "GB/s",
        arrays,
        by_xla,
        forwards | {"  xla": by_xla} | contestants.jax_nn(),
        {"PyTorch SDPA": torch_forward},
    )


def loss_cases(M: int, D: int, V: int, dtype) -> list[Case]:
    """The LM loss of M tokens, and their log-probabilities, each with its gradients."""
    hidden_MD, unembed_VD, dout_M = normal(dtype, (M, D), (V, D), (M,))
    targets_M = jax.random.randint(jax.random.key(1), (M,), 0, V)
    inputs = hidden_MD, unembed_VD * D**-0.5

    def loss(hidden, unembed):
        return linear_cross_entropy_sum(hidden, unembed, targets_M, jnp.ones(M))

    def logprobs(hidden, unembed):
        return linear_cross_entropy(hidden, unembed, targets_M)[0]

    def unfused(hidden, unembed):
        return contestants.unfused_logprobs(hidden, unembed, targets_M)

    def unfused_loss(hidden, unembed):
        return -unfused(hidden, unembed).sum()

    return [
        Case(
            f"linear_cross_entropy{name}, forward + backward, M {M} D {D} V {V}",
            6 * M * D * V,
            "TFLOP/s",
            (*inputs, dout),
            with_gradients(ours),
            {"gpt_jax": with_gradients(ours), "logits written out": with_gradients(theirs)},
            {},
        )
        for name, ours, theirs, dout in (
            ("_sum", loss, unfused_loss, jnp.ones((), dtype)),
            ("", logprobs, unfused, dout_M),
        )
    ]


def normal(dtype, *shapes) -> tuple[jax.Array, ...]:
    return tuple(
        jax.random.normal(jax.random.key(seed), shape, dtype) for seed, shape in enumerate(shapes)
    )


def with_gradients(function: Callable) -> Callable:
    """(inputs, dout) -> (out, gradients of the inputs)."""

    def run(*arguments):
        *inputs, dout = arguments
        out, pullback = jax.vjp(function, *inputs)
        return out, *pullback(dout.astype(out.dtype))

    return run


def as_table(title: str, results: list[tuple[Case, Result]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column()
    for heading in ("ms", "rate", "share", "ours is", "MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for case, group in itertools.groupby(results, key=lambda pair: pair[0]):
        table.add_section()
        table.add_row(f"[bold]{case.name}[/bold]")
        for _, line in group:
            if line.seconds is None:
                table.add_row(f"  {line.contestant}: {line.note}")
                continue
            rate = line.rate / (1e12 if case.unit == "TFLOP/s" else 1e9)
            table.add_row(
                f"  {line.contestant}",
                f"{1e3 * line.seconds:.3f}",
                f"{rate:.3g} {case.unit}",
                f"{line.share:.0%}",
                "" if line.ours_is is None else f"{line.ours_is:.2f}x",
                "" if line.mebibytes is None else f"{line.mebibytes:.1f}",
            )
    return table


def refresh_blocks(rounds: int) -> None:
    """Prints the lines of `pallas_gpu.TRITON_BLOCKS` with the fastest tiles of this GPU."""
    if jax.default_backend() != "gpu":
        raise UserError("Triton's tiles are measured on a GPU; run --refresh-blocks where one is")
    tiles = (16, 32, 64, 128)
    candidates = list(itertools.product(tiles, tiles, (4, 8), (1, 2, 3)))
    for H, size in pallas_gpu.TRITON_BLOCKS:
        q, k, v, dout = normal(jnp.bfloat16 if size == 2 else jnp.float32, *[(2, 4096, 16, H)] * 4)
        segments_BT = jnp.ones((2, 4096), jnp.int32)
        mask = (segments_BT, segments_BT, 0, None, make_options(q, True, None, None, None))
        out, lse = pallas_gpu.forward(q, k, v, *mask)
        fastest = []
        for function, arguments in (
            (triton.forward, (q, k, v, *mask)),
            (triton.backward, (q, k, v, *mask, out, lse, dout)),
        ):
            calls = {}
            for blocks in candidates:
                call = jax.jit(functools.partial(function, *arguments, blocks=blocks))
                try:
                    finish(call())
                except jax.errors.JaxRuntimeError:  # These tiles do not fit on the chip.
                    continue
                calls[blocks] = call
            turns = take_turns(calls, rounds)
            fastest.append(min(turns, key=lambda blocks: statistics.median(turns[blocks])))
        print(f"    ({H}, {size}): {tuple(fastest)},", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tools.benchmark_kernels", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each contestant")
    parser.add_argument("--output", type=Path, help="write the results to this JSON file")
    parser.add_argument("--refresh-blocks", action="store_true", help="measure Triton's tiles")
    with terminal.ending_plainly():
        given = parser.parse_args()
        if given.rounds < 1:
            raise UserError(f"--rounds is {given.rounds}, but must be at least 1; change it")
        if given.refresh_blocks:
            refresh_blocks(given.rounds)
        else:
            main(given.rounds, given.output)
