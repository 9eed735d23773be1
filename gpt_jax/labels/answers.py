"""`answers.jsonl`: what a model answers to each prompt, kept as it is drawn."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from gpt_jax.errors import UserError
from gpt_jax.files import unwritable
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Complete
from gpt_jax.metrics import MetricWriter
from gpt_jax.parallel import distributed
from gpt_jax.train.progress import Progress
from gpt_jax.train.stop import Stop

FILE = "answers.jsonl"
CHUNK = 128  # prompts that are answered at a time; a killed run loses no more


def read_answers(folder: Path, asked: Sequence[dict]) -> list[dict]:
    """The rows that are there, whole chunks of them; [] without a file.

    Args:
      folder: of the labeling.
      asked: the rows whose prompts were answered, in this order.

    Returns:
      The first of these rows with `completions` and `stopped`, K each.

    Raises:
      UserError: naming the line that is no answer to its prompt.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # behind the last line end is what was torn
    whole = len(lines) if len(lines) == len(asked) else len(lines) // CHUNK * CHUNK
    return [_parse(f"{path}:{n + 1}", lines[n], asked[n : n + 1]) for n in range(whole)]


def _parse(place: str, line: bytes, asked: Sequence[dict]) -> dict:
    mend = "remove the file, and run the same command again"
    try:
        row = json.loads(line)
        same = all(row[key] == asked[0][key] for key in ("split", "prompt"))
        texts = all(isinstance(text, str) for text in row["completions"])
        if not (same and texts and len(row["completions"]) == len(row["stopped"])):
            raise ValueError("it answers another prompt")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise UserError(f"{place} is not a row of this labeling ({error}); {mend}") from error
    return row


def draw_answers(
    folder: Path, asked: Sequence[dict], complete: Complete, sampling: Sampling, show: MetricWriter
) -> None:
    """Answers all prompts that are not answered yet, and shows how far it is.

    Ctrl-C and SIGTERM wait for the chunk in flight.

    Args:
      folder: of the labeling.
      asked: rows with a `prompt` each.
      complete: the model.
      sampling: `sampling.n` answers to each.
      show: is told the seconds, under the number of prompts that are answered.
    """
    done = distributed.agree(len(read_answers(folder, asked)))
    path = Path(folder) / FILE
    distributed.on_main(lambda: _cut(path, done))
    show.truncate(done)
    quiet = not distributed.is_main()
    with Stop() as stop, Progress("label", len(asked), done=done, quiet=quiet) as progress:
        for start in range(done, len(asked), CHUNK):
            began, some = time.monotonic(), asked[start : start + CHUNK]
            found = complete([row["prompt"] for row in some], sampling)
            rows = [
                {
                    **row,
                    "completions": [one.text for one in found[i : i + sampling.n]],
                    "stopped": [one.stopped for one in found[i : i + sampling.n]],
                }
                for row, i in zip(some, range(0, len(found), sampling.n), strict=True)
            ]
            end = start + len(some)
            distributed.on_main(lambda: _append(path, rows))  # noqa: B023
            seconds = time.monotonic() - began
            show.write(end, {"seconds": seconds})
            tokens = sum(len(one.tokens) for one in found)
            progress.update(end, tokens_per_second=tokens / seconds)
            if stop.wanted() and end < len(asked):
                distributed.say(
                    f"label: stopped after {end:,} of {len(asked):,} prompts; the same command "
                    "goes on"
                )
                stop.end()


def _cut(path: Path, lines: int) -> None:
    """Takes away what is behind the first lines."""
    if path.is_file():
        kept = path.read_bytes().split(b"\n")[:lines]
        with path.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in kept))


def _append(path: Path, rows: Sequence[dict]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise unwritable(path, error) from error
