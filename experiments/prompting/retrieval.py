"""Which index finds the passage that answers a question: words, vectors, or both.

    python -m experiments.prompting.retrieval
    python -m experiments.prompting.retrieval --encoders hf:sentence-transformers/all-MiniLM-L6-v2
    python -m experiments.prompting.retrieval --data alpaca.jsonl --question instruction input \\
        --passage output --encoders FOLDER --models gguf:SmolLM2-135M-Instruct.Q4_1.gguf

Every row has a question and its passage. All passages are cut into chunks (`retrieval.chunks_of`),
and BM25, the vectors of each encoder and model, and the fusion of BM25 with each encoder look for
the chunks of the right one. Nothing is tuned: each index is as its defaults are. Vectors are kept
in the run folder as they come; the same command goes on.

Hardware and time: without an encoder, on microworld's library, seconds. docs/embeddings.md has what
was measured on real questions.
"""

import dataclasses
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from gpt_jax import files, terminal
from gpt_jax.data import sources
from gpt_jax.data.extra import extra
from gpt_jax.data.microworld import make_world
from gpt_jax.data.subset import sample_rows
from gpt_jax.data.values import object_of, text_at
from gpt_jax.errors import UserError
from gpt_jax.evaluate import retrieval as measure
from gpt_jax.generate.embeddings import Embedder, embedder, open_encoder
from gpt_jax.machine import machine
from gpt_jax.prompting.retrieval import BM25, Exact, Fused, Graph, Index, chunks_of
from gpt_jax.ranges import NonNegative, Positive, check_ranges
from gpt_jax.report import retrieval as report
from gpt_jax.train import command
from gpt_jax.train.progress import Progress
from gpt_jax.train.served import open_run

BLOCK = 256  # texts between two writings
PROBE = 1e-3  # how far a vector may be from what it was, in another process


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    data: str = sources.MICROWORLD
    """A file or data set whose rows have questions and passages; of microworld, its library."""
    question: tuple[str, ...] = ("question",)
    """The keys of a row that make up its question; all but the first may be empty."""
    passage: str = "context"
    """The key of the passage that answers it."""
    encoders: tuple[str, ...] = ()
    """Sentence encoders: folders, or hf:ORG/NAME; NAME=FOLDER names one."""
    models: tuple[str, ...] = ()
    """Language models whose hidden states are averaged: run folders, hf:ORG/NAME or gguf:FILE."""
    passages: Positive | None = None
    """How many of the rows are there to be found; None: all."""
    questions: Positive = 1000
    """How many of these are asked for."""
    words: Positive = 100
    """The most words of a chunk."""
    overlap: NonNegative = 20
    """The most words that a chunk has of the end of the one before."""
    context: Positive | None = None
    """Use no more than so many tokens of the models' context."""
    seed: int = 0
    """Of which rows are taken."""
    run_dir: str = "runs/retrieval/default"
    """Where vectors and results are kept."""

    def __post_init__(self):
        check_ranges(self)
        names = [name for name, _ in map(_named, (*self.encoders, *self.models))]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two are called {twice}; name one of them apart as NAME=FOLDER")


class Asked(NamedTuple):
    """Passages, and questions that they answer.

    Attributes:
      passages: different texts.
      questions: that are asked.
      wanted: the number of each one's passage.
      left_out: rows without a passage.
    """

    passages: list[str]
    questions: list[str]
    wanted: list[int]
    left_out: int


class Vectors(NamedTuple):
    """The vectors of many texts.

    Attributes:
      by_text: the texts' own.
      about: what was measured on the way.
    """

    by_text: dict[str, np.ndarray]
    about: dict[str, Any]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors as an index asks for them."""
        return np.stack([self.by_text[text] for text in texts])


def main(options: Options) -> dict:
    """Lets every index look for every passage, and returns what `results.json` holds."""
    if options.encoders or options.models:
        extra("faiss", "a graph of vectors is made")  # known before the vectors are
    asked = read(options)
    chunks = [
        chunk
        for number, text in enumerate(asked.passages)
        for chunk in chunks_of(text, str(number), options.words, options.overlap)
    ]
    texts = list(dict.fromkeys([*(chunk.text for chunk in chunks), *asked.questions]))
    folder = Path(options.run_dir)
    _same(folder, texts)
    embedders = _opened(options, texts)
    passage_texts = [chunk.text for chunk in chunks]
    words = BM25(passage_texts)
    indexes: dict[str, Index] = {"bm25": words}
    encoders = dict(map(_named, options.encoders))
    about = []
    for name, one in embedders.items():
        vectors = vectors_of(name, one, texts, folder / f"{name}.f32")
        exact, graph = Exact(passage_texts, vectors.embed), Graph(passage_texts, vectors.embed)
        indexes |= {name: exact, f"{name}, graph": graph}
        if name in encoders:
            indexes[f"{name} + bm25"] = Fused([exact, words])
        finds = measure.shared(graph.find, exact.find, asked.questions)
        about.append({**vectors.about, "graph_finds": finds})
    passage_of = [int(chunk.source) for chunk in chunks]
    results = {
        "experiment": "retrieval",
        "command": command.invocation("retrieval", "experiments.prompting"),
        "machine": machine(),
        "passages": len(asked.passages),
        "chunks": len(chunks),
        "questions": len(asked.questions),
        "left_out": asked.left_out,
        "indexes": rows_of(indexes, asked, passage_of),
        "embedders": about,
    }
    report.write(folder, results)
    return results


def read(options: Options) -> Asked:
    """Passages and questions; of rows with the same passage each asks for the same one.

    Raises:
      UserError: naming the first row that has no question, or if none has a passage.
    """
    rows, left_out = [], 0
    for place, row in _located(options):
        if isinstance(row, UserError):
            raise UserError(f"{place}: {row}")
        try:
            first, *more = options.question
            question = [text_at(object_of(row), first), *(_may_be(row, key) for key in more)]
            passage = _may_be(row, options.passage)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        left_out += not passage.strip()
        if passage.strip():
            said = "\n".join(part for part in question if part.strip())
            rows.append({"question": said, "passage": passage})
    if not rows:
        raise UserError(f"{options.data}: no row has a passage; name its key with --passage")
    if left_out:
        sources.say_once(f"{options.data}: left out {left_out:,} rows without {options.passage}")
    rows = sample_rows(rows, options.passages or len(rows), options.seed)
    numbers: dict[str, int] = {}
    for row in rows:
        numbers.setdefault(row["passage"], len(numbers))
    some = sample_rows(rows, options.questions, options.seed + 1)
    wanted = [numbers[row["passage"]] for row in some]
    return Asked(list(numbers), [row["question"] for row in some], wanted, left_out)


def _located(options: Options):
    if options.data != sources.MICROWORLD:
        return sources.raw_rows(options.data)
    world = make_world()
    notes = dict(zip(world.facts.library, world.library(), strict=True))
    first = options.question[0]
    return [
        (f"{sources.MICROWORLD}:{number}", {first: one.prompt, options.passage: note})
        for number, one in enumerate(world.library_questions())
        if len(one.hops) == 1 and (note := notes[one.hops[0][:2]])
    ]


def _may_be(row: dict, key: str) -> str:
    """The text under a key, which may be empty."""
    said = row.get(key)
    return "" if isinstance(said, str) and not said.strip() else text_at(row, key)


def _same(folder: Path, texts: Sequence[str]) -> None:
    """Raises a UserError if the folder has the vectors of other texts."""
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path, settings = folder / "config.json", {"texts": digest}
    if path.is_file():
        before = files.read_json(path, "remove the folder to begin anew")
        if before != settings:
            raise UserError(f"{folder} has the vectors of other texts; give another --run-dir")
    files.write_text(path, f'{{"texts": "{digest}"}}\n')


def _opened(options: Options, texts: Sequence[str]) -> dict[str, Embedder]:
    """Every encoder and model; each can read every text."""
    found = {name: open_encoder(where) for name, where in map(_named, options.encoders)}
    for name, where in map(_named, options.models):
        found[name] = embedder(open_run(where, context=options.context))
    for name, one in found.items():
        try:
            one.read(texts)
        except UserError as error:
            raise UserError(f"{name}: {error}; fewer --words make shorter chunks") from error
    return found


def _named(where: str) -> tuple[str, str]:
    """(name, where) of NAME=WHERE; without a name, the last part of the path."""
    name, equals, rest = where.partition("=")
    if equals and name and "/" not in name:
        return name, rest
    return Path(where.removeprefix("gguf:").removeprefix("hf:")).name, where


def vectors_of(name: str, embedder: Embedder, texts: Sequence[str], path: Path) -> Vectors:
    """The vectors of all texts; those that the file has are not made again.

    Raises:
      UserError: if the file has the vectors of something else.
    """
    size = 4 * embedder.width
    kept = path.read_bytes() if path.is_file() else b""
    done = min(len(kept) // size, len(texts))
    if done:
        first_D = np.frombuffer(kept, "<f4", embedder.width)
        if not np.allclose(first_D, embedder.embed(texts[:1]).vectors_BD[0], atol=PROBE):
            raise UserError(f"{path} has the vectors of another {name}; remove it to begin anew")
    path.write_bytes(kept[: done * size])  # without what was cut off
    tokens = made = 0
    seconds = 0.0
    with path.open("ab") as file, Progress(name, len(texts), done) as progress:
        for start in range(done, len(texts), BLOCK):
            some, begun = texts[start : start + BLOCK], time.monotonic()
            found = embedder.embed(some)
            # The first block pays for compiling.
            if made:
                seconds, tokens = seconds + time.monotonic() - begun, tokens + found.tokens
            file.write(found.vectors_BD.astype("<f4").tobytes())
            file.flush()
            made += len(some)
            progress.update(done + made)
    vectors_ND = np.fromfile(path, "<f4").reshape(len(texts), embedder.width)
    timed = made - min(made, BLOCK)
    read = embedder.read(texts)
    about = {
        "name": name,
        "texts": len(texts),
        "tokens_per_text": sum(map(len, read.rows)) / len(texts),
        "cut": len(read.cut),
        "longest": embedder.longest,
        "texts_per_second": timed / seconds if timed else None,
        "tokens_per_second": tokens / seconds if timed else None,
    }
    return Vectors(dict(zip(texts, vectors_ND, strict=True)), about)


def rows_of(indexes: dict[str, Index], asked: Asked, passage_of: Sequence[int]) -> list[dict]:
    """What every index finds, and by how much it is better than words are."""
    rows, places = [], {}
    for name, index in indexes.items():
        begun = time.monotonic()
        places[name] = measure.places(index.find, asked.questions, asked.wanted, passage_of)
        seconds = (time.monotonic() - begun) / len(asked.questions)
        row = {"name": name, **measure.measured(places[name], asked.wanted)}
        row |= {"seconds_a_question": seconds, "places": places[name].tolist()}
        if name != "bm25":
            row["over_bm25"] = measure.compared(places[name], places["bm25"], asked.wanted)
        rows.append(row)
    return rows


if __name__ == "__main__":
    command.use_compilation_cache()
    with terminal.ending_plainly():
        try:
            main(tyro.cli(Options, description=__doc__))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
