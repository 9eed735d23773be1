"""One line of progress for a stage, at home in a terminal, a notebook and a log file.

    with Progress("pretrain", total=2000) as progress:
        for step in range(1, 2001):
            ...
            progress.update(step, loss=3.21, tokens_per_second=41_000)

A terminal gets a live bar, a notebook one line that is rewritten in place, and anything else (a
log file, a CI job) a plain line every ten seconds and one at the end.
"""

import html
import time

import numpy as np
import rich
from numpy.typing import ArrayLike
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from gpt_jax.readable import clock, short
from gpt_jax.seeds import mean_and_width

LOG_SECONDS = 10.0
NOTEBOOK_SECONDS = 0.5
LINE_WIDTH = 74  # characters, the bar left out; what is left of the terminal is the bar's


class Progress:
    """Shows stage, step, headline numbers, tokens/s, elapsed time and time left.

    Args:
        stage: the name in front.
        total: the number of steps of the whole stage.
        done: the steps a resumed run has behind it; they count as done, not as speed.
        quiet: show nothing (of many processes, one does).
    """

    def __init__(self, stage: str, total: int, done: int = 0, quiet: bool = False):
        self.stage, self.total, self.step, self.quiet = stage, total, done, quiet
        self._values: dict[str, float] = {}
        self._started = self._shown_at = time.monotonic()
        # Speed is measured from the end of the first step: the step before that compiles.
        self._first: tuple[int, float] | None = None
        self._shown_step: int | None = None
        self._bar = self._handle = None

    def __enter__(self) -> "Progress":
        console = rich.get_console()
        if self.quiet:
            return self
        if console.is_jupyter:
            from IPython.display import display

            self._handle = display(self._notebook_line(), display_id=True)
        elif console.is_terminal:
            self._bar = RichProgress(
                TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
                BarColumn(bar_width=max(4, min(24, console.width - LINE_WIDTH))),
                TextColumn("{task.fields[line]}", table_column=Column(no_wrap=True)),
                console=console,
            )
            self._task = self._bar.add_task(
                self.stage, total=self.total, completed=self.step, line=self._line()
            )
            self._bar.start()
        return self

    def update(self, step: int, **values: float) -> None:
        """Sets the step and the numbers to show; cheap enough to call at every step.

        `tokens_per_second` is shown as a speed; every other name as it is, with its value. Of many
        seeds a value is an array, and is shown as its mean with half of its 95% interval.
        """
        now = time.monotonic()
        self.step = step
        self._values |= values
        self._first = self._first or (step, now)
        if self._bar:
            self._bar.update(self._task, completed=step, line=self._line())
        elif now - self._shown_at >= (NOTEBOOK_SECONDS if self._handle else LOG_SECONDS):
            self._show(now)

    def __exit__(self, *_exception) -> None:
        if self._bar:
            self._bar.update(self._task, line=self._line())
            self._bar.stop()
        elif self.step != self._shown_step:
            self._show(time.monotonic())

    def _show(self, now: float) -> None:
        if self.quiet:
            return
        self._shown_at, self._shown_step = now, self.step
        if self._handle:
            self._handle.update(self._notebook_line())
        else:
            print(f"{self.stage}  {self._line()}", flush=True)

    def _line(self) -> str:
        values = dict(self._values)
        speed = values.pop("tokens_per_second", None)
        parts = [f"{self.step:,}/{self.total:,}"]
        parts += [f"{name} {_text(value)}" for name, value in values.items()]
        if speed is not None:
            parts.append(f"{short(speed)} tokens/s")
        parts.append(f"{clock(time.monotonic() - self._started)} elapsed")
        left = self._seconds_left()
        if left is not None:
            parts.append(f"{clock(left)} left")
        return "  ".join(parts)

    def _seconds_left(self) -> float | None:
        if not self._first or self.step <= self._first[0] or self.step >= self.total:
            return None
        step, at = self._first
        return (time.monotonic() - at) / (self.step - step) * (self.total - self.step)

    def _notebook_line(self):
        from IPython.display import HTML

        return HTML(
            f"<code><b>{html.escape(self.stage)}</b> "
            f"<progress value='{self.step}' max='{self.total}'></progress> "
            f"{html.escape(self._line())}</code>"
        )


def _text(value: ArrayLike) -> str:
    if not np.ndim(value):
        return f"{value:.4g}"
    mean, width = mean_and_width(value)
    return f"{mean:.4g} \N{PLUS-MINUS SIGN}{width:.1g}"
