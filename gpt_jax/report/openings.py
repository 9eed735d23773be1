"""`samples.jsonl`: how a model went on with the same openings, step by step of its training.

One line a text: {"step", "prompt", "text"}. It is a small file, replaced whole whenever there is
more, so that a killed run leaves no half of a line.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpt_jax.errors import UserError
from gpt_jax.files import write_text

FILE = "samples.jsonl"


def read_openings(folder: str | Path) -> list[dict]:
    """The rows of `folder/samples.jsonl`, in file order; [] when there is no such file.

    Raises:
      UserError: naming a line that is no such row, or a file that cannot be read.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); move it away") from error
    return [_parse(path, n, line) for n, line in enumerate(lines, start=1) if line]


def _parse(path: Path, number: int, line: bytes) -> dict:
    try:
        row = json.loads(line)
        return {"step": int(row["step"]), "prompt": str(row["prompt"]), "text": str(row["text"])}
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise UserError(
            f"{path}, line {number}, is not a row of samples; delete that line and run again."
        ) from error


def add_openings(folder: str | Path, step: int, texts: Mapping[str, str]) -> None:
    """Writes what follows each opening at a step.

    Rows of this step or a later one, which a stopped run had written, give way.

    Args:
      folder: of the stage.
      step: after which it was written.
      texts: {opening: what follows it}.
    """
    rows = [row for row in read_openings(folder) if row["step"] < step]
    rows += [{"step": step, "prompt": prompt, "text": text} for prompt, text in texts.items()]
    write_text(Path(folder) / FILE, "".join(json.dumps(row) + "\n" for row in rows))


def by_opening(rows: Sequence[Mapping]) -> list[dict]:
    """[{"prompt": text, "answers": {"step 1": text}}], as a table shows them."""
    answers = {}
    for row in rows:
        answers.setdefault(row["prompt"], {})[f"step {row['step']:,}"] = row["text"]
    return [{"prompt": prompt, "answers": texts} for prompt, texts in answers.items()]
