"""Checks and times functions of the same numbers side by side."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TURN_SECONDS = 0.05  # A turn repeats a call until it has taken about this long.
LIMITS = {jnp.dtype("float32"): 1e-4, jnp.dtype("bfloat16"): 1e-2}  # ||error|| / ||exact||


class Case(NamedTuple):
    """One computation and those who can do it.

    Attributes:
      work: floating-point operations (or bytes moved) of one call.
      unit: "TFLOP/s" or "GB/s"; names the ceiling.
      arrays: the inputs.
      exact: a function of the inputs in float32.
      contestants: {name: JAX function of the inputs}, ours first.
      foreign: {name: function} of another framework, which has its own copy of the inputs.
    """

    name: str
    work: float
    unit: str
    arrays: tuple[jax.Array, ...]
    exact: Callable
    contestants: dict[str, Callable]
    foreign: dict[str, Callable]


class Result(NamedTuple):
    """A line of the table. `ours_is`: how many times as fast as this contestant the first is."""

    case: str
    contestant: str
    note: str = ""
    mebibytes: float | None = None
    seconds: float | None = None
    rate: float | None = None
    share: float | None = None
    ours_is: float | None = None


def measure(case: Case, ceilings: dict[str, float], rounds: int) -> list[Result]:
    """A Result for every contestant; one that fails or is wrong has a note and no time."""
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(case.exact)(*(x.astype(jnp.float32) for x in case.arrays))
    exact = [np.asarray(x, np.float64) for x in jax.tree.leaves(exact)]
    limit = LIMITS[case.arrays[0].dtype]
    results, calls = {}, {}
    for name, function in (case.contestants | case.foreign).items():
        mebibytes = None
        try:
            if name in case.contestants:
                function = jax.jit(function).lower(*case.arrays).compile()
                mebibytes = function.memory_analysis().temp_size_in_bytes / 2**20
            outputs = finish(function(*case.arrays))
        except Exception as error:  # Not hidden: the table says it.
            results[name] = Result(case.name, name, f"- ({_first_line(error)})")
            continue
        error = max(map(relative_error, jax.tree.leaves(outputs), exact))
        note = "" if error <= limit else f"wrong (error {error:.1e})"
        results[name] = Result(case.name, name, note, mebibytes)
        if not note:
            calls[name] = functools.partial(function, *case.arrays)
    turns = take_turns(calls, rounds)
    ours = turns.get(next(iter(case.contestants)))
    for name, seconds in turns.items():
        rate = case.work / statistics.median(seconds)
        results[name] = results[name]._replace(
            seconds=statistics.median(seconds),
            rate=rate,
            share=rate / ceilings[case.unit],
            ours_is=ours and statistics.median(a / b for a, b in zip(seconds, ours)),
        )
    return list(results.values())


def take_turns(calls: dict[Any, Callable], rounds: int) -> dict[Any, list[float]]:
    """Seconds per call in each round; every round gives each contestant one turn."""
    repeats = {}
    for name, call in calls.items():
        start = time.perf_counter()
        finish(call())
        repeats[name] = max(1, round(TURN_SECONDS / (time.perf_counter() - start)))
    turns = {name: [] for name in calls}
    for turn in range(rounds):
        # Back and forth, so that no one always follows the same other.
        for name, call in list(calls.items())[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            for _ in range(repeats[name]):
                output = call()
            finish(output)
            turns[name].append((time.perf_counter() - start) / repeats[name])
    return turns


def measure_ceilings(size: int, dtype, rounds: int) -> dict[str, float]:
    """Operations per second of a large matmul, bytes per second (read and written) of a copy."""
    square = jax.random.normal(jax.random.key(0), (size, size), dtype)
    long = jax.random.normal(jax.random.key(1), (4 * size * size,))
    turns = take_turns(
        {
            "TFLOP/s": functools.partial(jax.jit(jnp.matmul), square, square),
            "GB/s": functools.partial(jax.jit(jnp.negative), long),
        },
        rounds,
    )
    work = {"TFLOP/s": 2 * size**3, "GB/s": 2 * long.nbytes}
    return {unit: work[unit] / statistics.median(turns[unit]) for unit in turns}


def finish(output: Any) -> Any:
    """Waits for the device, be it JAX's or PyTorch's."""
    first = jax.tree.leaves(jax.block_until_ready(output))[0]
    if not isinstance(first, jax.Array) and first.is_cuda:
        import torch

        torch.cuda.synchronize()
    return output


def relative_error(output, exact: np.ndarray) -> float:
    if not isinstance(output, jax.Array):
        output = output.float().cpu()
    output = np.asarray(output, np.float64)
    return float(np.linalg.norm(output - exact) / np.linalg.norm(exact))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:80]
