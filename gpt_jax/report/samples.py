"""The same prompts answered after every stage, as Markdown for people to read."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpt_jax.files import write_text


def write_samples(folder: str | Path, samples: Sequence[Mapping]) -> Path:
    """Writes `folder/samples.md`.

    Args:
        samples: [{"prompt": text, "answers": {model: text}}]; text is shown exactly as it is.
    """
    parts = ["# Samples\n"]
    for number, sample in enumerate(samples, start=1):
        parts.append(f"## {number}\n\n{_fenced(sample['prompt'])}")
        for name, answer in sample["answers"].items():
            parts.append(f"**{name}**\n\n{_fenced(answer)}")
    path = Path(folder) / "samples.md"
    write_text(path, "\n".join(parts))
    return path


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n"
