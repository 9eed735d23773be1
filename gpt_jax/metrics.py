"""Metrics: one JSON object per line in `metrics.jsonl`, and optionally TensorBoard and W&B.

The JSONL file is the record; the other two are mirrors of it. Every line is written
at once, so a killed run loses at most the line in flight, and a resumed run cuts the file back to
its checkpoint with `truncate` before it writes those steps again.

JSON has no NaN and no infinity, and a diverged run is exactly the one worth reading, so non-finite
numbers are stored as the strings "NaN", "Infinity" and "-Infinity"; `read_metrics` turns them back
into floats.
"""

import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from gpt_jax.errors import UserError
from gpt_jax.files import unwritable, write_text

FILE = "metrics.jsonl"
# What a line that is no row raises; of an infinite step it is an ArithmeticError.
_NO_ROW = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)


def mean(metrics: Mapping[str, tuple]) -> dict[str, float | np.ndarray]:
    """{name: (sum, count)} -> {name: sum / count}; NaN where nothing was counted.

    This is the one place where a mean is taken. Sums and counts are added up over micro-batches,
    devices and padding first, so none of these can change a number. Of many seeds they are arrays
    (S,), and so are the means.
    """
    return {name: _ratio(total, count) for name, (total, count) in metrics.items()}


def _ratio(total: ArrayLike, count: ArrayLike) -> float | np.ndarray:
    total, count = np.asarray(total, np.float64), np.asarray(count, np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        means = np.where(count != 0, total / count, math.nan)
    return means if means.ndim else float(means)


def read_metrics(folder: str | Path) -> list[dict[str, float]]:
    """The rows of `folder/metrics.jsonl`, in file order; [] when there is no such file.

    A half-written last line (the run was killed) is left out.

    Raises:
        UserError: a complete line is not a JSON object with a "step".
    """
    path = Path(folder) / FILE
    if not path.exists():
        return []
    try:
        whole, newline, _torn = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); move it away") from error
    lines = whole.split(b"\n") if newline else []
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def _parse(path: Path, number: int, line: bytes) -> dict[str, float]:
    try:
        row = json.loads(line)
        return {"step": int(row.pop("step"))} | {name: float(value) for name, value in row.items()}
    except _NO_ROW as error:
        raise UserError(
            f"{path}, line {number}, is not a row of metrics; delete that line and run again."
        ) from error


def _format(step: int, values: Mapping[str, float]) -> str:
    row = {"step": int(step)}
    for name, value in values.items():
        value = float(value)
        if math.isfinite(value):
            row[name] = value
        else:
            row[name] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return json.dumps(row, allow_nan=False) + "\n"


class MetricWriter:
    """Appends rows to `folder/metrics.jsonl`; use it as a context manager, or call `close`.

    Args:
        folder: the stage's folder, made if need be.
        tensorboard: also write event files to `folder/tensorboard`.
        wandb: also log to Weights & Biases; a resumed folder continues the same W&B run.
        silent: write nothing at all (of many processes, one writes).

    Raises:
        UserError: an optional writer is asked for and not installed, or a row cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        tensorboard: bool = False,
        wandb: bool = False,
        silent: bool = False,
    ):
        self.folder, self.silent = Path(folder), silent
        self.path = self.folder / FILE
        self._file = self._tensorboard = self._wandb = None
        if silent:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(self.path)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise unwritable(self.path, error) from error
        if tensorboard:
            self._tensorboard = _open_tensorboard(self.folder)
        if wandb:
            self._wandb = _open_wandb(self.folder)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one row, at once. `values` are scalars: Python, NumPy or JAX."""
        if self.silent:
            return
        row = _format(step, values).encode()
        try:
            while row:  # a disk that fills up takes a part of it
                row = row[self._file.write(row) :]
        except OSError as error:
            raise unwritable(self.path, error) from error
        if self._tensorboard:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, float(value), step)
        if self._wandb:
            self._wandb.log({name: float(value) for name, value in values.items()}, step=step)

    def truncate(self, step: int) -> None:
        """Drops every row with a step greater than `step`, which a resumed run writes again.

        The old file is replaced in one move, so being killed in here loses nothing. The mirrors
        are append-only: TensorBoard shows the rewritten steps twice, W&B keeps the first version.
        """
        if self.silent:
            return
        rows = [row for row in read_metrics(self.folder) if row["step"] <= step]
        self._file.close()
        write_text(self.path, "".join(_format(row.pop("step"), row) for row in rows))
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        if self._file:
            self._file.close()
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_exception) -> None:
        self.close()


def _drop_torn_line(path: Path) -> None:
    """Cuts off what a killed run left after the last newline, or the next row would join it."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _open_tensorboard(folder: Path):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "TensorBoard logging needs tensorboardX; run: pip install 'gpt_jax[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))


def _open_wandb(folder: Path):
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "Weights & Biases logging needs wandb; run: pip install 'gpt_jax[wandb]'"
        ) from error
    identity = folder / "wandb_id"
    if not identity.exists():
        identity.write_text(uuid.uuid4().hex)
    return wandb.init(
        project="gpt_jax",
        name="/".join(folder.resolve().parts[-3:]),
        id=identity.read_text(),
        resume="allow",
        dir=str(folder),
    )
