"""Retrieval: chunks, indexes against plain formulas, filled contexts, and the browsing loop."""

import math

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.prompting import retrieval, web
from gpt_jax.prompting.retrieval import BM25, Chunk, Exact, Fused, chunks_of
from gpt_jax.prompting.strategy import answer
from tests.prompting.scripted import Scripted

TEXTS = [
    "The lighthouse of Fada was built in 1884.",
    "Fada lies at the sea; its harbour is small.",
    "Cats sleep most of the day, and most of the night.",
    "The harbour master of Pilo keeps cats.",
]
CHUNKS = [Chunk(text, f"doc{i // 2}", i % 2) for i, text in enumerate(TEXTS)]


def embed(texts):
    """A vector of letters, of length 1."""
    counts = np.array([[t.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for t in texts])
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_chunks_are_whole_sentences_that_overlap():
    sentences = [f"Sentence {i} has exactly six words." for i in range(12)]
    found = chunks_of(" ".join(sentences), "book", words=20, overlap=6)
    assert [chunk.number for chunk in found] == list(range(len(found)))
    for before, after in zip(found, found[1:], strict=False):
        assert len(after.text.split()) <= 20
        assert after.text.startswith(before.text.split(". ")[-1])
    assert all(any(s in chunk.text for chunk in found) for s in sentences)
    long = chunks_of("word " * 250, "book", words=100, overlap=20)
    assert [len(chunk.text.split()) for chunk in long] == [100, 100, 50]
    assert chunks_of("  \n ", "empty") == []
    with pytest.raises(UserError, match="overlap"):
        chunks_of("a b", "book", words=5, overlap=5)


def test_bm25_is_the_formula():
    query, k1, b = "harbour of cats", 1.2, 0.75
    words = [retrieval._words(text) for text in TEXTS]
    mean = np.mean([len(w) for w in words])
    by_hand = []
    for w in words:
        score = 0.0
        for term in query.split():
            n = sum(term in other for other in words)
            rarity = math.log(1 + (len(words) - n + 0.5) / (n + 0.5))
            tf = w.count(term)
            score += rarity * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(w) / mean))
        by_hand.append(score)
    found = BM25(TEXTS).find(query, 4)
    assert [n for _, n in found] == sorted(
        (i for i in range(4) if by_hand[i] > 0), key=lambda i: -by_hand[i]
    )
    for score, number in found:
        assert score == pytest.approx(by_hand[number])
    assert BM25(TEXTS).find("zebra", 3) == [] == BM25([]).find("cats", 3)


def test_vectors_are_found_by_their_cosine_and_ranks_are_fused():
    index = Exact(TEXTS, embed)
    scores = embed(TEXTS) @ embed(["cats"])[0]
    assert [n for _, n in index.find("cats", 4)] == np.argsort(-scores, kind="stable").tolist()
    fused = Fused([index, BM25(TEXTS)]).find("cats", 4)
    assert fused[0][1] in (2, 3) and len(fused) == 4


def test_a_graph_finds_what_looking_at_all_finds():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [str(i) for i in range(300)]

    def table(texts):
        return np.stack([vectors[int(text)] for text in texts])

    exact, graph = Exact(names, table), retrieval.Graph(names, table)
    same = [
        len({n for _, n in exact.find(q, 10)} & {n for _, n in graph.find(q, 10)})
        for q in names[:30]
    ]
    assert np.mean(same) > 9.5


def test_a_context_is_filled_with_what_fits():
    def count(text):
        return len(text.split())

    index = BM25(TEXTS)
    room = count(retrieval.FILLED.format(notes="", q="Where do cats sleep?")) + 24
    prompt = retrieval.filled("Where do cats sleep?", CHUNKS, index, count, room)
    assert count(prompt) <= room
    assert TEXTS[2] in prompt and TEXTS[0] not in prompt
    with pytest.raises(UserError, match="question alone"):
        retrieval.filled("Where?", CHUNKS, index, count, room=5)
    model = Scripted(lambda words, sample: "by day" if TEXTS[2] in words else "I do not know")
    steps = retrieval.answer_from("Where do cats sleep?", CHUNKS, index, count=count, room=room)
    assert answer(model, steps).answer == "by day"


def test_a_browser_quotes_what_is_there_and_cites_it():
    said = iter(
        [
            "Search[lighthouse Fada]",
            "Open[9]",
            "Open[1]",
            "Quote[built in 1900]",
            "Quote[was built in 1884]",
            "Answer[In 1884 [1], and not in 1900 [2].]",
        ]
    )
    model = Scripted(lambda words, sample: next(said))
    found = answer(model, web.browse("When?", CHUNKS, BM25(TEXTS))).answer
    assert found.quotes == (("doc0", "was built in 1884"),)
    assert found.unfounded == (2,)
    seen = [prompt[-1]["content"] for prompt in model.asked]
    assert "no document '9'" in seen[2] and "not in the open document" in seen[4]
    assert web.citations_kept(found) == 0


def test_the_best_of_several_answers_is_kept():
    def begin(number):
        quotes = ["Search[cats]", "Open[1]", "Quote[cats]", "Answer[Cats [1].]"]
        script = iter(quotes if number == 1 else ["Answer[Cats [3].]"])

        def steps():
            inner = web.browse("Who?", CHUNKS, BM25(TEXTS))
            ask = next(inner)
            while True:
                yield ask
                try:
                    from tests.prompting.scripted import said

                    ask = inner.send([said(next(script))])
                except StopIteration as end:
                    return end.value

        return steps()

    model = Scripted(lambda words, sample: "ignored")
    found = answer(model, web.best_of(begin, web.citations_kept, n=3)).answer
    assert found.text == "Cats [1]." and found.unfounded == ()
