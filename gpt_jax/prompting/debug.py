"""Self-Debug: write a program, run its tests, read what went wrong, repair (Chen et al. 2024)."""

from __future__ import annotations

import re
from collections.abc import Callable

from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting.context import GREEDY, few_shot, turn
from gpt_jax.prompting.strategy import Ask, Steps
from gpt_jax.tasks import sandbox

WRITE = "Write Python for this. Give the program alone, between ``` and ```.\n{task}"
REPAIR = "Running it said:\n{said}\nRepair the program. Give all of it, between ``` and ```."
FENCED = re.compile(r"```(?:python)?\n?(.*?)(?:```|$)", re.DOTALL)


def program(text: str) -> str:
    """The program of an answer: what stands between fences, or all of it."""
    found = FENCED.search(text)
    return (found.group(1) if found else text).strip("\n") + "\n"


def tested(tests: str) -> Callable[[str], str | None]:
    """`program -> what went wrong`, None if the tests pass; in the sandbox."""

    def try_out(code: str) -> str | None:
        found = sandbox.run_tests(code, tests)
        return None if found.status == "passed" else f"{found.status}: {found.output[-1000:]}"

    return try_out


def self_debug(
    task: str,
    try_out: Callable[[str], str | None],
    *,
    write: str = WRITE,
    repair: str = REPAIR,
    repairs: int = 3,
    sampling: Sampling = GREEDY,
) -> Steps:
    """Writes and repairs until it runs, or has been repaired so often.

    Args:
      task: what the program is to do.
      try_out: says what went wrong, or None; see `tested`.
      write: the prompt for a program, with a place for the task.
      repair: the prompt for a better one, with a place for what was said.
      repairs: the most times.
      sampling: of the programs.

    Returns:
      (program, whether it passed, repairs).
    """
    messages = few_shot(write.format(task=task))
    for repaired in range(repairs + 1):
        (found,) = yield Ask([messages], sampling)
        code = program(found.text)
        said = try_out(code)
        if said is None:
            return code, True, repaired
        messages = [*messages, turn("assistant", found.text)]
        messages.append(turn("user", repair.format(said=said)))
    return code, False, repairs
