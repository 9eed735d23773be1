"""Rows that stand twice, nearly twice, or in an evaluation set, too."""

import random

import numpy as np

from gpt_jax.data import duplicates, inspection, sources
from gpt_jax.data.packing import pack_demonstrations
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

WORDS = [f"word{i}" for i in range(400)]


def text(rng, n=120):
    return " ".join(rng.choices(WORDS, k=n))


def changed(rng, said, share):
    """The text with a share of its words replaced in one stretch: so many shingles are lost."""
    some = said.split()
    count = int(share * len(some))
    at = rng.randrange(len(some) - count)
    some[at : at + count] = rng.choices(WORDS, k=count)
    return " ".join(some)


def jaccard(a, b):
    a, b = (set(zip(*(t.split()[i:] for i in range(5)), strict=False)) for t in (a, b))
    return len(a & b) / len(a | b)


def test_words_of_any_script():
    assert duplicates.words("Don't  STOP, naïve_1!") == ["don", "t", "stop", "naïve_1"]
    assert duplicates.words("我爱 GPT4，你呢？かな") == ["我", "爱", "gpt4", "你", "呢", "か", "な"]
    assert duplicates.words("...") == []


def test_equal_texts():
    assert duplicates.exact(["A b.", "a  B", "a c", "", "!"]) == 2
    assert duplicates.near(["A b.", "a  B", "a c", "", "!"]) == 2
    assert duplicates.near([]) == duplicates.exact([]) == 0


def test_near_duplicates_are_those_of_the_exact_measure():
    rng = random.Random(0)
    base = [text(rng) for _ in range(150)]
    close = [changed(rng, said, 0.03) for said in base[:50]]
    far = [changed(rng, said, 0.4) for said in base[50:100]]
    assert min(jaccard(a, b) for a, b in zip(base, close, strict=False)) > 0.85
    assert max(jaccard(a, b) for a, b in zip(base[50:], far, strict=False)) < 0.7
    assert duplicates.near(base + far) <= 1
    assert duplicates.near(base + close) >= 48


def test_minhash_estimates_the_similarity():
    rng = random.Random(1)
    for share in (0.02, 0.1, 0.3):
        a = text(rng, 1000)
        b = changed(rng, a, share)
        estimate = np.mean(duplicates._signature(a) == duplicates._signature(b))
        assert abs(estimate - jaccard(a, b)) < 0.13  # three standard errors of 128 draws


def test_thirteen_words_in_common():
    rng = random.Random(2)
    shared, known = text(rng, 13), text(rng, 30)
    source = [f"{text(rng)} {shared} {text(rng)}", text(rng), f"Oh: {known.upper()}!"]
    evaluation = [
        ("e:1", {"question": f"{text(rng, 5)} {shared}", "choices": ["a", "b"]}),
        ("e:2", {"question": text(rng, 40)}),
        ("e:3", {"choices": [{"deep": [known]}]}),
        ("e:4", {"question": "too short", "number": 3}),
        ("e:5", {"question": " ".join(shared.split()[:12]) + " other " + text(rng, 9)}),
    ]
    found = duplicates.overlap(source, evaluation)
    assert found == (["e:1", "e:3"], 5, 1, 2)
    assert duplicates.overlap(source, []) == ([], 0, 0, 0)
    assert duplicates.overlap([], evaluation).found == []


def test_what_is_learned_is_painted():
    """The spans are what the stages lay out, each with its mask."""
    tokenizer = Tokenizer.train(["hello world what is up"], 300)
    messages = [
        {"role": "user", "content": "what <eos>?"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "up"},
        {"role": "assistant", "content": "is"},
    ]
    row = {"messages": messages}
    spans = list(inspection.spans(row, tokenizer))
    ids, _ = chat.render(messages, tokenizer)
    assert "".join(text for text, _ in spans) == tokenizer.decode(ids, skip_special=False)
    assert [how for _, how in spans] == ["context", "learned", "context", "learned"]
    assert spans[1][0] == " hello<eos>"
    packed = inspection.packing([row], tokenizer, 64)
    batch = pack_demonstrations([row], tokenizer, 64, packed.left_out)
    assert packed.learned == (batch.weights_BT > 0).mean() and not packed.left_out
    assert inspection.lengths([row], tokenizer).tolist() == [len(ids)]
    plain = list(inspection.spans(row, None))
    assert ("hello\n", "learned") in plain and ("up\n", "context") in plain


def test_bytes_per_token_count_the_text_alone():
    tokenizer = Tokenizer.train(["hello world"] * 9, 300)
    texts = ["hello", "world world", "é"]
    tokens = sum(len(tokenizer.encode(" " + text)) for text in texts)
    assert inspection.bytes_per_token(texts, tokenizer) == 18 / tokens


def test_the_overlap_of_real_files_is_that_of_plain_sets(shared_data):
    """GSM8K's own halves: nine of the test questions share thirteen words with training ones."""
    read = lambda name: list(sources.raw_rows(str(shared_data / "gsm8k" / name)))  # noqa: E731
    train, test = read("train.jsonl"), read("test.jsonl")

    def plain(text):
        said = duplicates.words(text)
        return {tuple(said[i : i + 13]) for i in range(len(said) - 12)}

    known = set().union(*(plain(text) for _, row in train for text in row.values()))
    expected = [place for place, row in test if any(plain(text) & known for text in row.values())]
    texts = ["\n".join(row.values()) for _, row in train]
    found = duplicates.overlap(texts, test)
    assert found.found == expected and len(expected) == 9
