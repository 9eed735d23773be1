"""How often the passage that answers a question is found: by words, by vectors, and by both.

    python -m experiments.prompting.retrieval FILE \\
        --encoder hf:sentence-transformers/all-MiniLM-L6-v2
    python -m experiments.prompting.retrieval FILE --model gguf:SmolLM2.gguf --passages 300

FILE has demonstrations, in any layout that finetuning reads: the first turn is the question, the
reply is the passage that it is to be found among all others. Of other rows `--question` and
`--passage` name the keys (of SQuAD: question and context). BM25 goes by words; `--encoder` by a
sentence encoder's vectors, looked at one by one and through a graph (HNSW), and fused with BM25;
`--model` by the mean of a language model's hidden states. Ways that were measured before are not
measured again: the same command goes on.

Hardware and time: 2,500 texts of 49 tokens by MiniLM on one CPU core that others used as well: four
and a half minutes.
Measured (Alpaca's first 10,000 rows; docs/embeddings.md): the right one of 2,000 replies is the
first in 64% by BM25, in 77% by MiniLM, in 71% by both; of 300 in 73, 86 and 79%, and in 18% by the
mean of SmolLM2's hidden states.
"""

import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import rich
import tyro

from gpt_jax import files, terminal
from gpt_jax.data import sources
from gpt_jax.data.subset import sample_rows
from gpt_jax.data.values import object_of, text_at
from gpt_jax.errors import UserError
from gpt_jax.evaluate.statistics import mean_interval, paired_difference
from gpt_jax.generate.embeddings import Embedder, embedder, open_encoder
from gpt_jax.models.foreign.bert import open_sentences
from gpt_jax.prompting.retrieval import BM25, Embed, Exact, Fused, Graph, Index
from gpt_jax.ranges import Positive, Range, check_ranges
from gpt_jax.report.table import Table, for_terminal, interval_text, plain
from gpt_jax.train.command import use_compilation_cache
from gpt_jax.train.origin import fingerprint
from gpt_jax.train.served import open_run

DEPTH = 10  # how far down the passage is looked for
CHUNK = 256  # texts between two lines about how far it is


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    data: tyro.conf.Positional[str] = sources.MICROWORLD
    """Questions with their passages, as demonstrations."""
    question: str | None = None
    """The key of a row's question, where rows are no demonstrations."""
    passage: str | None = None
    """The key of the passage that answers it."""
    encoder: str | None = None
    """A sentence encoder: a folder or hf:ORG/NAME."""
    model: str | None = None
    """A language model: a run folder, a Hugging Face folder, hf:ORG/NAME or gguf:FILE."""
    passages: Positive = 2000
    """Among which it is looked for: a sample of the rows."""
    questions: Positive = 500
    """To be answered: a sample of those of these passages."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Of both samples, and of the intervals."""
    run_dir: str = "runs/retrieval/default"
    """Where the results are kept."""

    def __post_init__(self):
        check_ranges(self)
        if (self.question is None) != (self.passage is None):
            raise UserError("--question and --passage name keys of the same rows; give both")


def main(options: Options) -> dict:
    """Looks for every question's passage in every way, and returns what `results.json` holds."""
    rows = pairs(options)
    folder = Path(options.run_dir)
    ranks, speeds = _kept(folder, options)
    look(options)
    for name, index in indexes(options, rows, lambda name: name in ranks):
        began = time.perf_counter()
        found = [index.find(question, DEPTH) for question, _ in rows.questions]
        speeds[name] = (time.perf_counter() - began) / len(found)
        ranks[name] = [[number for _, number in one] for one in found]
        kept = {"options": _asked(options), "found": ranks, "seconds": speeds}
        files.write_text(folder / "found.json", json.dumps(kept) + "\n")
    results = summarise(ranks, speeds, rows, options)
    files.write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    rich.print(for_terminal([table(results)]))
    return results


def look(options: Options) -> None:
    """Sees to it that all that will be needed is there.

    Raises:
      UserError: naming what is not.
    """
    if options.encoder:
        open_sentences(options.encoder)
        if importlib.util.find_spec("faiss") is None:
            raise UserError('a graph needs faiss: pip install "gpt_jax[retrieval]"')
    if options.model:
        fingerprint(options.model)


@dataclasses.dataclass(frozen=True)
class Rows:
    """What is looked for, and where.

    Attributes:
      passages: texts, no two alike.
      questions: (text, number of the passage).
    """

    passages: list[str]
    questions: list[tuple[str, int]]


def pairs(options: Options) -> Rows:
    """The samples of passages and of questions.

    Conversations of more than two turns are left out, and of passages (and of questions) that are
    the same the first stands for all: a question would have several right ones.

    Raises:
      UserError: if fewer than two are left.
    """
    if options.question and options.passage:
        found = [*_named(options.data, options.question, options.passage)]
    else:
        rows = sources.read(options.data, "demonstrations", "all", options.seed)
        found = [tuple(one["content"] for one in row["messages"]) for row in rows]
    short = [turns for turns in found if len(turns) == 2]
    by_passage = {passage: question for question, passage in reversed(short)}
    by_question = {question: passage for passage, question in reversed(by_passage.items())}
    kept = [{"question": q, "passage": p} for q, p in by_question.items()]
    print(
        f"{options.data}: {len(kept):,} questions with a passage each, of {len(found):,} rows; "
        f"left out {len(found) - len(short):,} of more turns or with rules, and "
        f"{len(short) - len(kept):,} that say the same again",
        file=sys.stderr,
    )
    if len(kept) < 2:
        raise UserError(f"{options.data} has fewer than two questions with a reply; give others")
    passages = sample_rows(kept, options.passages, options.seed)
    numbers = {row["passage"]: number for number, row in enumerate(passages)}
    questions = sample_rows(passages, options.questions, options.seed + 1)
    return Rows(list(numbers), [(row["question"], numbers[row["passage"]]) for row in questions])


def _named(data: str, *keys: str) -> Iterator[tuple[str, ...]]:
    """The texts under these keys of every row."""
    for place, row in sources.raw_rows(data):
        try:
            if isinstance(row, UserError):
                raise row
            yield tuple(text_at(object_of(row), key) for key in keys)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error


def indexes(
    options: Options, rows: Rows, done: Callable[[str], bool]
) -> Iterator[tuple[str, Index]]:
    """Every way that is not done, by its name."""
    words = BM25(rows.passages)
    if not done("BM25"):
        yield "BM25", words
    names = ["encoder", "encoder, HNSW", "BM25 and encoder"]
    if options.encoder and not all(map(done, names)):
        embed = beforehand("encoder", open_encoder(options.encoder), rows)
        exact = Exact(rows.passages, embed)
        ways = [exact, Graph(rows.passages, embed), Fused([words, exact])]
        yield from ((name, way) for name, way in zip(names, ways, strict=True) if not done(name))
    if options.model and not done("model"):
        embed = beforehand("model", embedder(open_run(options.model)), rows)
        yield "model", Exact(rows.passages, embed)


def beforehand(name: str, found: Embedder, rows: Rows) -> Embed:
    """An `Embed` that looks vectors up: all texts are embedded here, together."""
    texts = list(dict.fromkeys([*rows.passages, *(question for question, _ in rows.questions)]))
    began, tokens, cut, vectors = time.perf_counter(), 0, 0, {}
    for start in range(0, len(texts), CHUNK):
        some = texts[start : start + CHUNK]
        part = found.embed(some)
        vectors |= dict(zip(some, part.vectors_BD, strict=True))
        tokens, cut = tokens + part.tokens, cut + len(part.cut)
    seconds = time.perf_counter() - began
    print(
        f"{name}: {len(texts):,} texts, {tokens:,} tokens, {len(texts) / seconds:,.1f} texts a "
        f"second; {cut:,} cut at {found.longest} tokens",
        flush=True,
    )
    return lambda some: np.stack([vectors[text] for text in some])


def summarise(ranks: dict, speeds: dict, rows: Rows, options: Options) -> dict:
    """Recall of every way with its 95% interval over the questions, and what the graph misses."""
    right = np.array([number for _, number in rows.questions])
    hits = {name: _hits(found, right) for name, found in ranks.items()}
    results = {
        "passages": len(rows.passages),
        "questions": len(right),
        "ways": {
            name: {
                f"recall@{k}": mean_interval(hits_NK[:, :k].any(1), seed=options.seed)
                for k in (1, 5, DEPTH)
            }
            | {"milliseconds": 1e3 * speeds[name]}
            for name, hits_NK in hits.items()
        },
    }
    fused = "BM25 and encoder"
    results["differences"] = {
        f"{fused} - {name}": {
            f"recall@{k}": paired_difference(
                hits[fused][:, :k].any(1), hits[name][:, :k].any(1), seed=options.seed
            )
            for k in (1, 5)
        }
        for name in ("BM25", "encoder")
        if fused in hits
    }
    if "encoder, HNSW" in ranks:
        shared = zip(ranks["encoder"], ranks["encoder, HNSW"], strict=True)
        results["graph_finds"] = float(np.mean([len({*a} & {*b}) / len(a) for a, b in shared]))
    return results


def _hits(found: Sequence[list[int]], right_N: np.ndarray) -> np.ndarray:
    """hits_NK: whether the k-th that was found is the right one; BM25 may find fewer than K."""
    hits_NK = np.zeros((len(found), DEPTH), bool)
    for row, (numbers, right) in enumerate(zip(found, right_N, strict=True)):
        hits_NK[row, : len(numbers)] = np.array(numbers, int) == right
    return hits_NK


def table(results: dict) -> Table:
    """A row for every way."""
    keys = [f"recall@{k}" for k in (1, 5, DEPTH)]
    rows = [
        [name, *(interval_text(way[key], 100, 1) for key in keys), f"{way['milliseconds']:.2f}"]
        for name, way in results["ways"].items()
    ]
    title = f"{results['questions']:,} questions, {results['passages']:,} passages"
    headings = ["way", *(f"{key}, %" for key in keys), "ms"]
    return plain(
        headings,
        rows,
        title,
        "With 95% intervals; milliseconds a question, without those of its vector.",
    )


def _asked(options: Options) -> dict:
    """What results depend on."""
    asked = dataclasses.asdict(options) | {"rows": sources.source_fingerprint(options.data)}
    return {name: value for name, value in asked.items() if name != "run_dir"}


def _kept(folder: Path, options: Options) -> tuple[dict, dict]:
    """What an earlier run of the same found; further ways may be asked for.

    Raises:
      UserError: if the folder has the results of other rows or models.
    """
    path = folder / "found.json"
    if not path.is_file():
        return {}, {}
    kept = files.read_json(path, "remove it and run again")
    before, now = kept["options"], _asked(options)
    for name, value in now.items():
        added = name in ("encoder", "model") and None in (before.get(name), value)
        if before.get(name) != value and not added:
            raise UserError(
                f"{folder} has results with another {name} ({before.get(name)}); give another "
                "--run-dir"
            )
    return kept["found"], kept["seconds"]


if __name__ == "__main__":
    use_compilation_cache()
    with terminal.ending_plainly():
        try:
            main(tyro.cli(Options, description=__doc__))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
