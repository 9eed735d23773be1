"""Retrieval: documents in chunks, an index, and a context filled with what fits the question.

Words are matched by BM25 (Robertson & Zaragoza 2009, eq. 3.15), vectors by their cosine, exactly or
through a graph (HNSW, Malkov & Yashunin 2020, by the library faiss). Ranks of several indexes are
fused (Cormack et al. 2009).
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting.context import GREEDY, few_shot
from gpt_jax.prompting.strategy import Ask, Steps

Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> vectors_BD of length 1
WORD = re.compile(r"\w+")
FILLED = (
    "Answer from these notes, and say that you do not know if they do not tell.\n{notes}\n\n{q}"
)


class Chunk(NamedTuple):
    """A part of a document.

    Attributes:
      text: of it.
      source: the document's name.
      number: its place in the document, from 0.
    """

    text: str
    source: str
    number: int


class Index(Protocol):
    """What finds chunks."""

    def find(self, query: str, k: int) -> list[tuple[float, int]]:
        """(score, number of the chunk) of the k best, the best first."""


def chunks_of(text: str, source: str, words: int = 100, overlap: int = 20) -> list[Chunk]:
    """A document in parts of at most so many words, between sentences where that can be.

    Args:
      text: of the document.
      source: its name.
      words: the most of a part.
      overlap: the most words that a part has of the end of the one before, in whole sentences.
    """
    if not 0 <= overlap < words:
        raise UserError(f"an overlap of {overlap} words does not fit parts of {words}; lower it")
    sentences = [s.split() for s in re.split(r"(?<=[.!?])\s+|\n+", text.strip())]
    pieces = [s[i : i + words] for s in sentences for i in range(0, len(s), words)]
    parts: list[list[list[str]]] = []
    now: list[list[str]] = []
    for piece in pieces:
        if now and sum(map(len, now)) + len(piece) > words:
            parts.append(now)
            kept = []
            while now and sum(map(len, [now[-1], *kept])) <= min(overlap, words - len(piece)):
                kept.insert(0, now[-1])
                now = now[:-1]
            now = kept
        now = [*now, piece]
    parts += [now] if now else []
    texts = (" ".join(word for piece in part for word in piece) for part in parts)
    return [Chunk(part, source, number) for number, part in enumerate(texts)]


class BM25:
    """An index of words.

    Args of the constructor: the texts; k1, how soon a word that is repeated counts no more; b, how
    much long texts are held back.
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75):
        counts = [collections.Counter(_words(text)) for text in texts]
        lengths_N = np.array([max(1, sum(count.values())) for count in counts])
        mean = lengths_N.mean() if len(texts) else 1.0
        norms_N = k1 * (1 - b + b * lengths_N / mean)
        self._size, self._postings = len(texts), collections.defaultdict(list)
        for number, count in enumerate(counts):
            for word, times in count.items():
                weight = times * (k1 + 1) / (times + norms_N[number])
                self._postings[word].append((number, weight))

    def find(self, query: str, k: int) -> list[tuple[float, int]]:
        """See Index; a text without a word of the query is not found."""
        scores: dict[int, float] = collections.defaultdict(float)
        for word in set(_words(query)):
            found = self._postings.get(word, ())
            rarity = math.log(1 + (self._size - len(found) + 0.5) / (len(found) + 0.5))
            for number, weight in found:
                scores[number] += rarity * weight
        best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
        return [(score, number) for number, score in best]


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


class Exact:
    """An index of vectors that looks at all of them."""

    def __init__(self, texts: Sequence[str], embed: Embed):
        self._embed, self._vectors_ND = embed, np.asarray(embed(list(texts)), np.float32)

    def find(self, query: str, k: int) -> list[tuple[float, int]]:
        """See Index."""
        scores_N = self._vectors_ND @ np.asarray(self._embed([query])[0], np.float32)
        best = np.argsort(-scores_N, kind="stable")[:k]
        return [(float(scores_N[number]), int(number)) for number in best]


class Graph:
    """An index of vectors that looks at few of them: HNSW."""

    def __init__(self, texts: Sequence[str], embed: Embed, links: int = 16, breadth: int = 200):
        """
        Args:
          texts: of the chunks.
          embed: gives their vectors.
          links: of every vector to others.
          breadth: how many candidates are kept while building, and looking.

        Raises:
          UserError: if faiss is missing.
        """
        try:
            import faiss
        except ImportError as error:
            raise UserError('a graph needs faiss: pip install "gpt_jax[retrieval]"') from error
        vectors_ND = np.asarray(embed(list(texts)), np.float32)
        self._embed, self._size = embed, len(texts)
        metric = faiss.METRIC_INNER_PRODUCT
        self._graph = faiss.IndexHNSWFlat(vectors_ND.shape[1], links, metric)
        self._graph.hnsw.efConstruction = self._graph.hnsw.efSearch = breadth
        faiss.omp_set_num_threads(1)  # so that it is the same every time
        self._graph.add(vectors_ND)

    def find(self, query: str, k: int) -> list[tuple[float, int]]:
        """See Index."""
        vector_1D = np.asarray(self._embed([query]), np.float32)
        scores, numbers = self._graph.search(vector_1D, min(k, self._size))
        return [(float(s), int(n)) for s, n in zip(scores[0], numbers[0], strict=True)]


class Fused:
    """Several indexes of the same chunks by their ranks: sum of 1 / (60 + rank)."""

    def __init__(self, indexes: Sequence[Index], depth: int = 50):
        self._indexes, self._depth = indexes, depth

    def find(self, query: str, k: int) -> list[tuple[float, int]]:
        """See Index."""
        scores: dict[int, float] = collections.defaultdict(float)
        for index in self._indexes:
            for rank, (_, number) in enumerate(index.find(query, self._depth), 1):
                scores[number] += 1 / (60 + rank)
        best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
        return [(score, number) for number, score in best]


def filled(
    question: str,
    chunks: Sequence[Chunk],
    index: Index,
    count: Callable[[str], int],
    room: int,
    k: int = 8,
) -> str:
    """A prompt with as many of the best chunks as fit, in the order of their documents.

    Args:
      question: to be answered.
      chunks: that the index finds.
      index: of them.
      count: tokens of a text.
      room: the most tokens of the prompt.
      k: the most chunks.

    Raises:
      UserError: if not even the question fits.
    """

    def prompt(numbers: Sequence[int]) -> str:
        some = sorted((chunks[n] for n in numbers), key=lambda c: (c.source, c.number))
        notes = "\n".join(f"[{chunk.source}] {chunk.text}" for chunk in some)
        return FILLED.format(notes=notes, q=question)

    if count(prompt([])) > room:
        raise UserError(f"the question alone takes more than {room} tokens; say it shorter")
    taken: list[int] = []
    for _, number in index.find(question, k):
        if count(prompt([*taken, number])) <= room:
            taken.append(number)
    return prompt(taken)


def answer_from(
    question: str,
    chunks: Sequence[Chunk],
    index: Index,
    *,
    count: Callable[[str], int],
    room: int,
    k: int = 8,
    sampling: Sampling = GREEDY,
) -> Steps:
    """The answer from what was retrieved (Lewis et al. 2020); see `filled`."""
    (found,) = yield Ask([few_shot(filled(question, chunks, index, count, room, k))], sampling)
    return found.text.strip()
