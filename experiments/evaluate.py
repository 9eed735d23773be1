"""How good a model is on public benchmarks, with intervals.

    python -m experiments.evaluate hf:HuggingFaceTB/SmolLM2-135M-Instruct --tasks hellaswag lambada
    python -m experiments.evaluate gguf:FILE --tasks hellaswag=hellaswag_val.jsonl.gz \\
        mmlu=test.jsonl.gz:dev.jsonl.gz gsm8k=test.jsonl:train.jsonl --limit 200
    python -m experiments.evaluate runs/pretrain/default --tasks perplexity=wikitext.txt

A task is a name, alone or with a file of its rows, and behind a colon one of the rows that are
shown with their answers. Every row's result is kept in the run folder as it comes; the same command
goes on. Each number has its standard error and a 95% interval.

Hardware and time: SmolLM2 (135M), 1,000 rows of HellaSwag: see docs/evaluation.md.
"""

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import tyro

from gpt_jax import files, terminal
from gpt_jax.data import sources
from gpt_jax.errors import UserError
from gpt_jax.evaluate import benchmark as benchmarks
from gpt_jax.evaluate.likelihood import rolling
from gpt_jax.ranges import NonNegative, Positive, check_ranges
from gpt_jax.tasks.benchmark import Benchmark, Writing
from gpt_jax.tasks.choices import CHOICES
from gpt_jax.tasks.gsm8k import GSM8K
from gpt_jax.tasks.humaneval import HUMANEVAL
from gpt_jax.train.command import use_compilation_cache
from gpt_jax.train.origin import fingerprint
from gpt_jax.train.progress import Progress
from gpt_jax.train.served import open_run

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in (*CHOICES, GSM8K, HUMANEVAL)}
PERPLEXITY = "perplexity"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder, hf:ORG/NAME or gguf:FILE."""
    tasks: tuple[str, ...]
    """NAME, NAME=FILE or NAME=FILE:SHOTS."""
    limit: Positive | None = None
    """The first rows of every task, so many; None: all."""
    shots: NonNegative | None = None
    """Rows that are shown; None: as many as the task's papers show."""
    samples: Positive | None = None
    """Answers to each row of a task whose answers are written; more than 1 at temperature 0.7."""
    stride: Positive = 512
    """Tokens between two windows of a text whose perplexity is measured."""
    context: Positive | None = None
    """Use no more than so many tokens of the model's context."""
    run_dir: str = "runs/evaluate/default"
    """Where the results are kept."""

    def __post_init__(self):
        check_ranges(self)


def main(options: Options) -> dict:
    """Grades a model on all tasks, and returns what `results.json` holds."""
    folder = Path(options.run_dir)
    asked = [look(spec, options) for spec in options.tasks]  # all of them before the first begins
    model = open_run(options.model, context=options.context)
    _same(folder, options)
    results = {}
    for name, benchmark, rows, shots in asked:
        if benchmark is None:
            found = rolling(model, rows, min(options.stride, model.config.context_length))
            results[name] = {
                "bits_per_byte": found.bits_per_byte,
                "perplexity": found.perplexity,
                "word_perplexity": found.word_perplexity,
                "tokens": found.tokens,
            }
        else:
            with Progress(name, len(rows)) as progress:
                results[name] = benchmarks.run(
                    benchmark, rows, shots, model, folder / f"{name}.jsonl", progress.update
                )
        print(line(name, results[name]), flush=True)
        files.write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def look(spec: str, options: Options) -> tuple[str, Benchmark | None, list[dict] | str, list]:
    """A task's name, the task, its rows and those that are shown.

    Raises:
      UserError: if there is no such task, or no such rows.
    """
    name, _, where = spec.partition("=")
    if name == PERPLEXITY:
        if not where:
            raise UserError("perplexity needs a text; give perplexity=FILE")
        texts = [row for _, row in sources.raw_rows(where)]
        return name, None, "\n\n".join(t if isinstance(t, str) else t["text"] for t in texts), []
    if name not in BENCHMARKS:
        there = ", ".join([*BENCHMARKS, PERPLEXITY])
        raise UserError(f"there is no task {name!r}; choose from {there}")
    benchmark = BENCHMARKS[name]
    if isinstance(benchmark, Writing) and (options.samples or 1) > 1:
        benchmark = benchmark._replace(samples=options.samples, temperature=0.7)
    rows_of, _, shots_of = where.partition(":") if not where.startswith("hf:") else (where, "", "")
    shots = benchmark.shots if options.shots is None else options.shots
    if shots and not shots_of and where:
        raise UserError(
            f"{name} shows {shots} rows with their answers; name their file "
            f"({name}={rows_of}:FILE), or give --shots 0"
        )
    rows = _rows(rows_of or benchmark.hub, benchmark.split, options.limit)
    shown, most = [], None if benchmark.group else shots
    if shots:
        shown = _rows(shots_of or benchmark.hub, benchmark.shown, most)
    if benchmark.group:
        groups = {benchmark.group(row) for row in rows}
        shown = [
            row
            for group in sorted(groups)
            for row in itertools.islice((r for r in shown if benchmark.group(r) == group), shots)
        ]
    return name, benchmark, rows, shown


def _rows(spec: str, split: str, limit: int | None) -> list[dict]:
    found = sources.raw_rows(spec, "text", split)
    return list(itertools.islice((row for _, row in found), limit))


def _same(folder: Path, options: Options) -> None:
    """Raises a UserError if the folder has the results of another model, or of other settings."""
    path = folder / "config.json"
    settings = {
        "model": options.model,
        "fingerprint": fingerprint(options.model),
        "context": options.context,
        "shots": options.shots,
        "samples": options.samples,
    }
    if path.is_file():
        before = files.read_json(path, "remove the folder to begin anew")
        different = [name for name, value in settings.items() if before.get(name) != value]
        if different:
            raise UserError(
                f"{folder} has results with another {different[0]}; give another --run-dir"
            )
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(settings, indent=2) + "\n")


def line(name: str, result: dict) -> str:
    """A task's result in a line."""
    parts = []
    for key, value in result.items():
        if isinstance(value, list):
            interval = f" [{value[1]:.3f}, {value[2]:.3f}]" if value[1] is not None else ""
            parts.append(f"{key} {value[0]:.3f}{interval}")
        elif key in ("perplexity", "bits_per_byte", "word_perplexity"):
            parts.append(f"{key} {value:.3f}")
    rows = f"  (n = {result['rows']:,})" if "rows" in result else ""
    return f"{name}: {', '.join(parts)}{rows}"


if __name__ == "__main__":
    use_compilation_cache()
    with terminal.ending_plainly():
        try:
            main(tyro.cli(Options, description=__doc__))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
