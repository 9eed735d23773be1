"""Rules asked row by row, so that one that goes wrong costs its row and not the run.

A rule that raises, hangs, gives no number, ends its process or forks leaves a `Failure` in place of
a score. Rules that can be pickled are asked in processes of their own (`RuleProcess`), where that
holds of whatever they do. Others (lambdas, functions of a notebook) are asked here (`ask_here`):
what they raise, how long their Python takes and their forks are dealt with, but not a crash, an
`os._exit`, or C code that never returns.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.ranges import LARGEST
from gpt_jax.rl.worker import receive, send
from gpt_jax.tasks.time_limit import time_limit

SECONDS = 10.0  # for a row
Rule = Callable[[dict, str, bool], float | None]  # (record, completion, stopped) -> score
Row = tuple[dict, str, bool]


class Failure(NamedTuple):
    """Why a row has no score, as what the reward did: "raised KeyError: 'answer'"."""

    why: str


def ask_here(rule: Rule, rows: Sequence[Row], seconds: float = SECONDS) -> list[float | Failure]:
    """A rule's scores of rows, asked in this process.

    Args:
      rule: any function.
      rows: (record, text, stopped).
      seconds: the most that a row may take; see `time_limit`.
    """
    return [_ask(rule, row, seconds) for row in rows]


def _ask(rule: Rule, row: Row, seconds: float) -> float | Failure:
    me = os.getpid()
    try:
        with time_limit(seconds):
            given = rule(*row)
    except TimeoutError as error:
        given = Failure(f"gave no score: {error}")
    except (Exception, SystemExit) as error:
        given = Failure(f"raised {type(error).__name__}: {error}")
    if os.getpid() != me:
        os._exit(0)  # a process that the rule has forked: there must be no second run
    return checked(given)


def checked(given: Any) -> float | Failure:
    """A score as a number that float32 holds, or a failure for what is none."""
    if isinstance(given, Failure):
        return given
    try:
        number = math.nan if given is None else float(given)
    except (TypeError, ValueError, OverflowError):  # the last of an integer of many digits
        number = math.nan
    return number if abs(number) <= LARGEST else Failure(f"gave {given!r}")


class RuleProcess:
    """Some rules in a process of their own, which is there when it is first asked.

    Args:
      rules: each must be one that can be pickled by its name.
      seconds: the most that a row may take.
      processes: how many rows are asked at a time; None: one for each core.
    """

    def __init__(
        self, rules: Sequence[Rule], seconds: float = SECONDS, processes: int | None = None
    ):
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self._settings = {
            "rules": [pickle.dumps(rule) for rule in rules],
            "path": [entry or os.getcwd() for entry in sys.path],
            "seconds": seconds,
            "processes": processes or count,
        }
        self._process: subprocess.Popen | None = None

    def __call__(self, rows: Sequence[tuple[int, dict, str, bool]]) -> list[float | Failure]:
        """The scores of rows.

        Args:
          rows: (number of the rule, record, text, stopped).

        Raises:
          UserError: if there can be no such process.
        """
        if self._process is None:
            self._start()
        try:
            send(self._process.stdin, pickle.dumps(list(rows)))
            answer = receive(self._process.stdout)
        except BrokenPipeError:
            answer = None
        if answer is None:
            code, self._process = self._process.wait(), None
            raise UserError(
                f"the process that asks the rewards ended (exit code {code}); its own message "
                "stands above: mend that, and run the same command again"
            )
        return [checked(Failure(why) if why else score) for score, why in json.loads(answer)]

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A rule of JAX's shall not take the accelerator from the run.
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            start_new_session=True,  # Ctrl-C is the run's to deal with
        )
        weakref.finalize(self, _close, self._process)
        send(self._process.stdin, pickle.dumps(self._settings))


def _close(process: subprocess.Popen) -> None:
    """Ends the process: it ends when it is asked nothing more, or is killed with what it asks."""
    process.stdin.close()
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
