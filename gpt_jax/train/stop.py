"""Ending a run between two steps: Ctrl-C and SIGTERM wait for the step in flight.

A step takes its state's memory, so an exception that breaks into one leaves no state to save. A
second Ctrl-C does break in; the run then goes on from its last checkpoint.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

_calls = itertools.count()  # over all stages: JAX wants a number that only grows


class Stop:
    """`with Stop() as stop:` notes the signals; `stop.wanted()` is asked after every step."""

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._before: dict = {}

    def wanted(self) -> bool:
        """Whether to end after this step; every process gets the same answer at the same step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_calls))
        return self.signal is not None

    def end(self) -> None:
        """Ends the program: with exit code 0 after SIGTERM, as interrupted after Ctrl-C."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(0)

    def _note(self, number: int, _frame) -> None:
        self.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._note)
            if jax.process_count() == 1:  # of many, JAX catches SIGTERM and tells the others
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.signal is not None and error_type is None:
            self.end()
