"""Several sources by weight: honoured, reproducible, and told apart from names with such marks."""

import json

import numpy as np
import pytest

from gpt_jax.data import order, pipeline
from gpt_jax.data import sources as sources_module
from gpt_jax.data.config import DataConfig
from gpt_jax.data.mixture import Part, parse, texts_by_share
from gpt_jax.data.rows import language_rows
from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer

LLAMA = (67, 15, 4.5, 4.5, 4.5, 2.5, 2)  # Touvron et al. 2023, table 1, in percent


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["abc def ghi jkl mno pqr stu"] * 9, 280)


@pytest.fixture
def sources(tmp_path):
    """Seven sources of one letter each, whose documents are of very different lengths."""
    return [
        write(
            tmp_path / f"{letter}.jsonl",
            [f"{i} " + f"{letter} " * (3 * number**2 + 1 + i % 5) for i in range(40 + 40 * number)],
        )
        for number, letter in enumerate("abcdefg")
    ]


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("a.txt", [("a.txt", 1)]),
        ("a.txt,b.txt", [("a.txt,b.txt", 1)]),
        ("a.txt=0.3,b/*.jsonl=0.7", [("a.txt", 0.3), ("b/*.jsonl", 0.7)]),
        ("a,b=1,c=3", [("a,b", 0.25), ("c", 0.75)]),
        ("hf:x/y=67,tokens:z=33.", [("hf:x/y", 0.67), ("tokens:z", 0.33)]),
        ("a=1e-1,b=9E-1", [("a", 0.1), ("b", 0.9)]),
        ("run=3.txt", [("run=3.txt", 1)]),
        ("a=.5", [("a", 1)]),
    ],
)
def test_specs(spec, parts):
    found = parse(spec)
    assert [part.spec for part in found] == [name for name, _ in parts]
    assert [part.share for part in found] == pytest.approx([share for _, share in parts])


def test_a_file_may_be_named_like_a_mixture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=0.5").touch()
    (tmp_path / "b=0.5").touch()
    assert parse("a=0.5") == [Part("a=0.5", 1.0)]
    assert parse("a=0.5,b=0.5") == [Part("a=0.5,b=0.5", 1.0)]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("a=1,b", "b has no weight"),
        ("a=0,b=1", "the weight of a must be above 0"),
        ("a=1,b=-1", "the weight of b must be above 0"),
        ("a=1,b=nan", "the weight of b must be above 0"),
        ("a=1,b=1e999", "the weight of b must be above 0"),
        ("a=1,a=1", "a stands twice"),
    ],
)
def test_broken_specs(spec, said):
    with pytest.raises(UserError, match=said):
        parse(spec)


def tokens_of(batch, letters, tokenizer):
    """How many learned tokens are of documents of each letter; rows are of one source each."""
    counts = dict.fromkeys(letters, 0)
    for ids, weights in zip(batch.tokens_BT.ids, batch.weights_BT, strict=True):
        text = tokenizer.decode(ids)
        [letter] = {letter for letter in letters if letter in text}
        counts[letter] += weights.sum()
    return counts


def test_weights_are_of_tokens_and_honoured_to_a_hundredth(sources, tokenizer):
    """LLaMA's table, on a run that visits some sources many times and others only in part."""
    spec = ",".join(f"{path}={weight}" for path, weight in zip(sources, LLAMA, strict=True))
    rows = language_rows(DataConfig(text=spec), "train", tokenizer, 32)
    batch_at = pipeline.make_batch_at(rows, 50, seed=1)
    steps = 200
    total = dict.fromkeys("abcdefg", 0)
    for step in range(steps):
        for letter, count in tokens_of(batch_at(step), "abcdefg", tokenizer).items():
            total[letter] += count
    shares = {letter: count / sum(total.values()) for letter, count in total.items()}
    for letter, weight in zip("abcdefg", LLAMA, strict=True):
        assert shares[letter] == pytest.approx(weight / 100, rel=0.01), (letter, shares)
    again = pipeline.make_batch_at(rows, 50, seed=1)
    np.testing.assert_array_equal(again(123).tokens_BT.ids, batch_at(123).tokens_BT.ids)
    other = pipeline.make_batch_at(rows, 50, seed=2)
    assert (other(123).tokens_BT.ids != batch_at(123).tokens_BT.ids).any()


def test_the_epochs_over_each_source_are_those_that_are_said(sources, tokenizer):
    """Every row of a source is visited equally often, to within one visit."""
    spec = f"{sources[0]}=0.9,{sources[6]}=0.1"
    rows = language_rows(DataConfig(text=spec), "train", tokenizer, 32)
    batch_at = pipeline.make_batch_at(rows, 10, seed=0)
    seen = np.concatenate([batch_at.numbers(step) for step in range(500)])
    said = [float(line.split(" tokens, ")[1].split()[0]) for line in rows.sentences(5000)]
    begin = 0
    for source, epochs in zip(rows.sources, said, strict=True):
        visits = np.bincount(seen, minlength=len(rows))[begin : begin + source.count]
        assert visits.min() >= np.floor(epochs - 0.1) and visits.max() <= np.ceil(epochs + 0.1)
        assert visits.mean() == pytest.approx(epochs, rel=0.01, abs=0.01)
        begin += source.count
    assert rows.sentences(5000)[0].startswith(f"{sources[0]}: 90.0% of the tokens, ")


def test_held_out_rows_are_those_of_all_sources(sources, tokenizer):
    spec = f"{sources[1]}=0.9,{sources[2]}=0.1"
    both = language_rows(DataConfig(text=spec), "test", tokenizer, 32)
    alone = [
        language_rows(DataConfig(text=str(path)), "test", tokenizer, 32) for path in sources[1:3]
    ]
    assert len(both.weights_BT) == sum(len(rows.weights_BT) for rows in alone)


def test_a_tokenizer_sees_each_language_in_its_share(sources):
    spec = f"{sources[1]}=0.25,{sources[6]}=0.75"
    texts = list(DataConfig(text=spec).tokenizer_texts())
    sizes = [sum(len(t) for t in texts if letter in t) for letter in "bg"]
    assert sizes[0] / sum(sizes) == pytest.approx(0.25, rel=0.01)


def test_a_share_of_bytes_that_repeats_nothing_more_than_it_must():
    found = list(texts_by_share([["a" * 10] * 10, ["b" * 10] * 90], [0.5, 0.5]))
    assert found.count("a" * 10) == found.count("b" * 10) == 90


def test_other_kinds_are_mixed_by_rows(tmp_path, capsys):
    paths = []
    for name, count in (("a", 300), ("b", 900)):
        rows = [{"prompt": f"{name} {i}?", "completion": "Yes."} for i in range(count)]
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(demonstrations=f"{paths[0]}=0.5,{paths[1]}=0.5")
    rows = config.read("demonstrations", "train")
    asked = [row["messages"][0]["content"] for row in rows]
    of_a = [text for text in asked if text.startswith("a")]
    assert len(of_a) == pytest.approx(len(asked) / 2, abs=1)
    counts = np.unique(of_a, return_counts=True)[1]
    assert set(counts) <= {1, 2, 3} and counts.max() - counts.min() <= 1
    of_b = [text for text in asked if text.startswith("b")]
    assert len(set(of_b)) == len(of_b)
    assert rows == config.read("demonstrations", "train")
    assert "50.0% of the demonstrations" in capsys.readouterr().err
    of_all = sources_module.read(str(paths[1]), "demonstrations", "train")
    beyond = {f"rows of {paths[1]} beyond its share": len(of_all) - len(of_b)}
    assert config.left_out("demonstrations") == beyond
    assert config.fingerprints()["demonstrations"].count("-") == 1


# The order of rows.


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 64, 1000, 4097])
def test_an_order_that_is_not_held_in_memory_is_a_permutation(rows, monkeypatch):
    monkeypatch.setattr(order, "LARGEST_SHUFFLE", 0)
    epochs = [order.visited(np.arange(rows) + e * rows, rows, seed=3) for e in range(3)]
    assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
    if rows > 10:
        assert (epochs[0] != epochs[1]).mean() > 0.9
        assert (epochs[0] != order.visited(np.arange(rows), rows, seed=4)).mean() > 0.9


def test_the_cipher_looks_random(monkeypatch):
    """Neighbours in the order are not neighbours among the rows, and no bit is left as it was."""
    monkeypatch.setattr(order, "LARGEST_SHUFFLE", 0)
    rows = 10**6 + 3
    found = order.visited(np.arange(rows), rows, seed=0)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.005
    assert abs(np.corrcoef(found, np.arange(rows))[0, 1]) < 0.005
    for start in range(0, rows - 1000, 97_000):
        assert abs(found[start : start + 1000].mean() / rows - 0.5) < 0.05


def test_a_huge_order_takes_no_memory():
    places = np.array([0, 1, 10**12, 5 * 10**13])
    found = order.visited(places, 10**12, seed=0)
    assert found.min() >= 0 and found.max() < 10**12 and len(set(found)) == 4
