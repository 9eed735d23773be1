"""experiments.prompting.retrieval on a few rows: what is counted, kept and refused."""

import json

import numpy as np
import pytest

from experiments.prompting import retrieval
from gpt_jax.errors import UserError
from tests import bert

pytest.importorskip("faiss")
ANIMALS = "cat dog fox owl bat hen pig cow rat ape elk emu".split()


@pytest.fixture
def rows(tmp_path):
    """Every answer has its question's word, two rows are the same again, one has three turns."""
    pairs = [(f"What is a {one}?", f"The {one} is an animal.") for one in ANIMALS]
    lines = [{"prompt": q, "completion": a} for q, a in [*pairs, pairs[0], ("Else?", pairs[1][1])]]
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    lines.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_words_vectors_and_both(rows, tmp_path, capsys, monkeypatch):
    encoder = bert.write(tmp_path / "bert")
    options = dict(data=rows, encoder=str(encoder), questions=8, run_dir=str(tmp_path / "run"))
    results = retrieval.main(retrieval.Options(**options))
    assert "12 questions with a passage each, of 15 rows; left out 1" in capsys.readouterr().err
    assert (results["passages"], results["questions"]) == (12, 8)
    assert results["ways"]["BM25"]["recall@1"] == [1.0, 1.0, 1.0]
    assert set(results["ways"]) == {"BM25", "encoder", "encoder, HNSW", "BM25 and encoder"}
    assert results["graph_finds"] == 1.0  # of twelve it misses none
    # What was measured is not measured again, and a table of other rows is not gone on with.
    monkeypatch.setattr(retrieval, "open_encoder", None)
    assert retrieval.main(retrieval.Options(**options)) == results
    with pytest.raises(UserError, match="another questions"):
        retrieval.main(retrieval.Options(**options | {"questions": 7}))
    with pytest.raises(UserError, match="another encoder"):
        retrieval.main(retrieval.Options(**options | {"encoder": "elsewhere"}))


def test_a_run_that_was_cut_off_goes_on(rows, tmp_path):
    encoder = bert.write(tmp_path / "bert")
    options = dict(data=rows, questions=8, run_dir=str(tmp_path / "run"))
    first = retrieval.main(retrieval.Options(**options))
    assert list(first["ways"]) == ["BM25"] and first["differences"] == {}
    later = retrieval.main(retrieval.Options(**options, encoder=str(encoder)))
    assert later["ways"]["BM25"] == first["ways"]["BM25"] and len(later["ways"]) == 4


def test_ranks_are_counted_by_hand():
    hits_NK = retrieval._hits([[4, 7], [], [1, 2, 3]], np.array([7, 0, 9]))
    assert hits_NK.shape == (3, 10) and np.argwhere(hits_NK).tolist() == [[0, 1]]


def test_what_is_not_there_is_said_before_anything_is_embedded(rows, tmp_path, monkeypatch):
    """Invariant 13."""
    monkeypatch.setattr(retrieval, "beforehand", None)
    options = dict(data=rows, run_dir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="no config.json"):
        retrieval.main(retrieval.Options(**options, encoder=str(tmp_path / "no")))
    encoder = str(bert.write(tmp_path / "bert"))
    with pytest.raises(UserError, match="nowhere"):
        retrieval.main(retrieval.Options(**options, encoder=encoder, model="nowhere"))
    monkeypatch.setattr(retrieval.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install \"gpt_jax\[retrieval\]"):
        retrieval.main(retrieval.Options(**options, encoder=encoder))


def test_other_rows_are_read_by_their_keys(rows, tmp_path):
    options = dict(question="q", passage="a.b", run_dir=str(tmp_path / "run"))
    lines = [{"q": f"What is a {one}?", "a.b": f"The {one}.", "id": 3} for one in ANIMALS]
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = retrieval.main(retrieval.Options(data=str(path), **options))
    assert found["passages"] == 12 and found["ways"]["BM25"]["recall@1"][0] == 1.0
    path.write_text(json.dumps(lines[0]) + '\n{"q": "a"}\n')
    with pytest.raises(UserError, match=r"other.jsonl:2: `a.b` is missing; the keys are `q`"):
        retrieval.pairs(retrieval.Options(data=str(path), **options))
    path.write_text(json.dumps(lines[0]) + "\n{")
    with pytest.raises(UserError, match=r"other.jsonl:2: this line is not JSON"):
        retrieval.pairs(retrieval.Options(data=str(path), **options))
    with pytest.raises(UserError, match="give both"):
        retrieval.Options(data=rows, question="q")


def test_too_few_rows_are_refused(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(UserError, match="fewer than two questions"):
        retrieval.main(retrieval.Options(data=f"{tmp_path}/one.jsonl"))
