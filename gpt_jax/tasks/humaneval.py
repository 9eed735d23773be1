"""HumanEval: programs from their docstrings, run against tests (Chen et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt_jax.tasks import sandbox
from gpt_jax.tasks.benchmark import Writing
from gpt_jax.tasks.choices import field

STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # the paper's, after which there is no more


def question(row: dict, shots: Sequence[dict]) -> str:
    """The beginning of the program."""
    return field(row, "prompt", str)


def grade(row: dict, texts: Sequence[str]) -> dict[str, float]:
    """pass@k for k of 1, 10 and 100, as far as there are so many samples."""
    name = field(row, "entry_point", str)
    tests = f"{field(row, 'test', str)}\ncheck({name})\n"
    passed = sum(
        sandbox.run_tests(field(row, "prompt", str) + text, tests, names=(name,)).status == "passed"
        for text in texts
    )
    n = len(texts)
    return {f"pass@{k}": pass_at_k(n, passed, k) for k in (1, 10, 100) if k <= n}


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of k samples passes, without bias (Chen et al. 2021, eq. 1):

        1 - C(n - c, k) / C(n, k)

    Args:
      n: samples.
      c: of which so many pass.
      k: at most n.
    """
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


HUMANEVAL = Writing(
    "humaneval",
    "hf:openai/openai_humaneval",
    question,
    grade,
    stop=STOP,
    max_new_tokens=256,
)
