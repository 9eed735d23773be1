"""Retrieval measured: places by hand, vectors that are kept, and rows that cannot be asked.

Break it: count a passage's chunks as different passages, or take the vectors of a killed run as
they are.
"""

import json

import numpy as np
import pytest

from experiments.prompting import retrieval as experiment
from experiments.prompting.retrieval import Options, main, read
from gpt_jax.errors import UserError
from gpt_jax.evaluate import retrieval as measure
from gpt_jax.report import retrieval as report
from tests import bert

CATS = "cats sleep. they sleep all day. dogs do not."
ROWS = [
    {"q": "who sleeps all day?", "more": "", "a": CATS},
    {"q": "who does not?", "more": "in the day", "a": CATS},
    {"q": "what is red?", "more": "", "a": "the sea is blue; the sun is red at night."},
    {"q": "where is it?", "more": "", "a": " "},
    {"q": "who is old?", "more": "", "a": "the king is old, and the queen is older."},
]


def options(folder, **more):
    return Options(
        data=str(folder / "rows.jsonl"),
        question=("q", "more"),
        passage="a",
        run_dir=str(folder / "run"),
        **more,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(bert.write(tmp_path_factory.mktemp("bert") / "little"))


def test_a_place_is_that_of_the_passages_best_chunk():
    ranking = [(0.9, 3), (0.8, 0), (0.7, 2), (0.1, 1)]
    of = [0, 1, 0, 2]  # chunks 0 and 2 are of passage 0
    found = measure.places(lambda question, k: ranking[:k], ["?"] * 4, [0, 1, 2, 3], of)
    assert found.tolist() == [2, 3, 1, 0]
    scores = measure.scores(np.array([1, 2, 6, 10, 11, 0]))
    assert scores["recall@1"].tolist() == [1, 0, 0, 0, 0, 0]
    assert scores["recall@5"].tolist() == [1, 1, 0, 0, 0, 0]
    assert scores["mrr@10"].tolist() == [1, 1 / 2, 1 / 6, 1 / 10, 0, 0]
    ours, theirs = np.array([1, 1, 2, 0]), np.array([1, 0, 3, 1])
    assert measure.compared(ours, theirs, range(4))["recall@1"][0] == 0.0
    assert measure.compared(ours, theirs, range(4))["mrr@10"][0] == pytest.approx((1 / 6) / 4)
    half = measure.shared(lambda q, k: [(1.0, 1), (0.5, 7)], lambda q, k: [(1.0, 1), (0.9, 2)], "a")
    assert half[0] == 0.5


def test_rows_with_one_passage_ask_for_it_and_rows_without_are_counted(folder, capsys):
    asked = read(options(folder))
    assert len(asked.passages) == 3 and asked.left_out == 1
    assert asked.questions[1] == "who does not?\nin the day"
    assert [asked.passages[i] for i in asked.wanted] == [r["a"] for r in ROWS if r["a"].strip()]
    assert "left out 1 rows without a" in capsys.readouterr().err
    few = read(options(folder, passages=2, questions=1))
    assert len(few.passages) <= 2 and len(few.questions) == 1
    assert few.passages[few.wanted[0]] in {row["a"] for row in ROWS}


def test_every_index_looks_for_every_passage(folder, encoder):
    pytest.importorskip("faiss")
    found = main(options(folder, words=8, overlap=0, encoders=(encoder,)))
    assert [one["name"] for one in found["indexes"]] == [
        *("bm25", "little", "little, graph", "little + bm25")
    ]
    assert found["questions"] == 4 and found["chunks"] > found["passages"] == 3
    (about,) = found["embedders"]
    assert about["graph_finds"][0] == 1.0 and about["cut"] > 0
    written = json.loads((folder / "run" / "results.json").read_text())
    assert written["indexes"][0]["places"] == found["indexes"][0]["places"]
    assert "| little + bm25 |" in (folder / "run" / "retrieval.md").read_text()
    assert any("the beginning" in sentence for sentence in report.sentences(found))


def test_a_killed_run_goes_on(folder, encoder, monkeypatch):
    """Invariant 6: what is whole is kept, and the vector that was cut off is made again."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(experiment, "BLOCK", 2)
    wanted = options(folder, encoders=(f"mine={encoder}",))
    first = main(wanted)
    path = folder / "run" / "mine.f32"
    whole = path.read_bytes()
    for length in (4 * 16 * 3 + 5, 0, len(whole)):
        path.write_bytes(whole[:length])
        again = main(wanted)
        np.testing.assert_allclose(np.fromfile(path, "<f4"), np.frombuffer(whole, "<f4"), atol=1e-6)
        for ours, theirs in zip(again["indexes"], first["indexes"], strict=True):
            assert ours["places"] == theirs["places"]
    path.write_bytes(np.zeros(len(whole) // 4, "<f4").tobytes())
    with pytest.raises(UserError, match="mine.f32 has the vectors of another mine"):
        main(wanted)
    with pytest.raises(UserError, match="has the vectors of other texts; give another --run-dir"):
        main(options(folder, words=3, overlap=0))


def test_what_cannot_be_asked_is_named(folder, encoder):
    with pytest.raises(UserError, match="two are called little; name one of them apart"):
        options(folder, encoders=(encoder, encoder))
    with pytest.raises(UserError, match=r"rows.jsonl:1: `question` is missing; the keys are `q`"):
        read(Options(data=str(folder / "rows.jsonl")))
    (folder / "rows.jsonl").write_text('{"q": "a?", "a": ""}\n')
    with pytest.raises(UserError, match="no row has a passage; name its key with --passage"):
        read(Options(data=str(folder / "rows.jsonl"), question=("q",), passage="a"))
    (folder / "rows.jsonl").write_text('{"q": "a?", "a": "b"}\n{"q": 3, "a": "b"}\n{"q')
    with pytest.raises(UserError, match=r"rows.jsonl:2: `q` must be a string"):
        read(Options(data=str(folder / "rows.jsonl"), question=("q",), passage="a"))


def test_the_library_is_asked_where_no_rows_are_given(tmp_path):
    found = main(Options(run_dir=str(tmp_path), questions=50))
    assert found["passages"] == 120 and found["questions"] == 50
    (words,) = found["indexes"]
    assert 0.1 < words["recall@1"][0] < words["recall@5"][0] < 1
