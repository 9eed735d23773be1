"""Token shards: the same rows as from memory, whatever happens while they are written."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.data import beam, pipeline, store, tokenizing
from gpt_jax.data.config import DataConfig
from gpt_jax.data.encoding import encode_documents
from gpt_jax.data.rows import language_rows, tokenizer_of_shards
from gpt_jax.data.tokenizing import write_store
from gpt_jax.errors import UserError
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer

LENGTH = 16


def documents(n, seed=0):
    rng = random.Random(seed)
    words = "the cat sat on a mat and saw 12 dogs run".split()
    return [f"{i} " + " ".join(rng.choices(words, k=rng.randint(1, 60))) for i in range(n)]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(documents(200, seed=9), 300)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(400)))
    return path


def learned_pairs(batch):
    """(the tokens of its piece before it, each learned token), over all rows, sorted."""
    found = []
    tokens, weights = batch
    for ids, positions, segments, w in zip(*tokens, weights, strict=True):
        for t in np.flatnonzero(w):
            assert segments[t] == segments[t - 1] and positions[t] == positions[t - 1] + 1
            found.append((int(ids[t - 1]), int(ids[t])))
    return sorted(found)


def test_batches_are_encoded_as_single_documents_are(tokenizer):
    texts = ["", " a", "<eos> 12 <|user|>", "naïve\n\n字 ", *documents(40)]
    for text, ids in zip(texts, encode_documents(texts, tokenizer), strict=True):
        assert ids.tolist() == chat.render_document(text, tokenizer)


def test_shards_teach_what_packed_rows_teach(corpus, tmp_path, tokenizer):
    """Every token but the first of a document once, after the token before it."""
    write_store(str(corpus), tmp_path / "s", tokenizer, part_tokens=2000)
    parts = store.open_store(f"tokens:{tmp_path}/s").facts["parts"]
    assert len(parts) == 1  # a batch is never divided
    for split in ("train", "test"):
        packed, rows = (
            language_rows(DataConfig(text=spec), split, tokenizer, LENGTH)
            for spec in (str(corpus), f"tokens:{tmp_path}/s")
        )
        whole = pipeline.take(rows, np.arange(pipeline.count(rows)))
        assert learned_pairs(whole) == learned_pairs(packed)
    # Read as text, the held-out documents are the same, too.
    texts = [
        [row["text"] for row in DataConfig(text=spec).read("text", "test")]
        for spec in (str(corpus), f"tokens:{tmp_path}/s")
    ]
    assert texts[0] == texts[1] and texts[0]


def test_many_small_parts(corpus, tmp_path, tokenizer, monkeypatch):
    """Break: forget where the second part begins."""
    one = write_store(str(corpus), tmp_path / "one", tokenizer)
    monkeypatch.setattr("gpt_jax.data.encoding.CHUNK_ITEMS", 7)
    many = write_store(str(corpus), tmp_path / "many", tokenizer, part_tokens=500)
    assert len(many.facts["parts"]) > 20
    for split in ("train", "test", "all"):
        joined = [np.concatenate([shard.ids() for shard in of.shards(split)]) for of in (one, many)]
        if split != "all":
            np.testing.assert_array_equal(*joined)
        assert sum(s.documents for s in many.shards(split)) == sum(
            s.documents for s in one.shards(split)
        )
    assert [ids.tolist() for ids in one.held_out()] == [ids.tolist() for ids in many.held_out()]
    rows = store.TokenRows(tuple(s for s in many.shards("all") if s.tokens), LENGTH, 0)
    assert int(rows.take(np.arange(len(rows))).weights_BT.sum()) == rows.learned
    many.verify()


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [1, 9, 30])
def test_a_killed_run_goes_on_and_writes_the_same(corpus, tmp_path, tokenizer, monkeypatch, after):
    monkeypatch.setattr("gpt_jax.data.encoding.CHUNK_ITEMS", 7)
    calls = []

    def kill(tokens):
        calls.append(tokens)
        if len(calls) == after:
            raise Killed

    whole = write_store(str(corpus), tmp_path / "whole", tokenizer, part_tokens=900)
    with pytest.raises(Killed):
        write_store(str(corpus), tmp_path / "s", tokenizer, part_tokens=900, progress=kill)
    with pytest.raises(UserError, match="not finished"):
        store.open_store(f"tokens:{tmp_path}/s")
    again = write_store(str(corpus), tmp_path / "s", tokenizer, part_tokens=900)
    assert again.facts == whole.facts and again.fingerprint == whole.fingerprint
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "s").iterdir())
    for name in names:
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # Once more is nothing more to do.
    write_store(str(corpus), tmp_path / "s", tokenizer, progress=kill)


def test_what_cannot_be_gone_on_with(corpus, tmp_path, tokenizer):
    folder = tmp_path / "s"
    write_store(str(corpus), folder, tokenizer)
    other = Tokenizer.train(documents(200, seed=3), 290)
    with pytest.raises(UserError, match="begun with another tokenizer"):
        write_store(str(corpus), folder, other)
    with pytest.raises(UserError, match="begun with another source"):
        write_store(f"{corpus},{corpus}", folder, tokenizer)
    with pytest.raises(UserError, match="another tokenizer made these tokens"):
        language_rows(DataConfig(text=f"tokens:{folder}"), "train", other, LENGTH)
    with pytest.raises(UserError, match="holds something else"):
        write_store(str(corpus), tmp_path, tokenizer)
    with pytest.raises(UserError, match="each source is tokenized apart"):
        write_store(f"{corpus}=1,microworld=2", tmp_path / "t", tokenizer)
    corpus.write_text(corpus.read_text() + '{"text": "more"}\n')
    with pytest.raises(UserError, match="begun with another source fingerprint"):
        write_store(str(corpus), folder, tokenizer)
    corpus.write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(UserError, match="corpus.jsonl:2: `text` is missing"):
        write_store(str(corpus), tmp_path / "u", tokenizer)
    with pytest.raises(UserError, match="corpus.jsonl:2: `text` is missing"):
        write_store(str(corpus), tmp_path / "v", tokenizer)
    found = write_store(str(corpus), tmp_path / "v", tokenizer, skip_broken=True)  # goes on
    assert found.facts["left_out"] == {"broken rows": 1}
    assert DataConfig(text=f"tokens:{tmp_path}/v").left_out("text") == {"broken rows": 1}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "store.json").unlink(), "there are no token shards"),
        (lambda f: (f / "store.json").write_text("{"), "store.json is damaged"),
        (lambda f: (f / "store.json").write_text("{}"), "store.json is damaged"),
        (lambda f: change(f, "dtype", "uint8"), "damaged, or of another version"),
        (lambda f: change(f, "format", 99), "damaged, or of another version"),
        (lambda f: change(f, "parts", [{"train": [1, 1]}]), "is damaged"),
        (lambda f: (f / "00000.train.tokens").unlink(), "00000.train.tokens: it is missing"),
        (lambda f: os.truncate(f / "00000.train.tokens", 10), "it has 10 bytes"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json has changed"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: it cannot be read"),
        (lambda f: flip(f / "00000.train.tokens"), "it has changed since"),
        (
            lambda f: (f / "store.json").write_text(
                (f / "store.json").read_text().replace("00000.train.tokens", "../../etc/passwd")
            ),
            "damaged, or of another version",
        ),
    ],
)
def test_damaged_shards(corpus, tmp_path, tokenizer, damage, said):
    folder = tmp_path / "s"
    write_store(str(corpus), folder, tokenizer)
    damage(folder)
    with pytest.raises(UserError, match=said) as caught:
        opened = store.open_store(f"tokens:{folder}")
        opened.tokenizer()
        opened.verify()
    assert "experiments.tokenize" in str(caught.value) and "\n" not in str(caught.value)


def change(folder, key, value):
    path = folder / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def flip(path):
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)


def test_processes_share_one_global_batch(corpus, tmp_path, tokenizer):
    write_store(str(corpus), tmp_path / "s", tokenizer)
    rows = language_rows(DataConfig(text=f"tokens:{tmp_path}/s"), "train", tokenizer, LENGTH)
    whole = pipeline.make_batch_at(rows, 8, seed=3)
    halves = [pipeline.make_batch_at(rows, 8, seed=3, share=(i, 2)) for i in range(2)]
    for step in (0, 5, 1000):
        np.testing.assert_array_equal(
            whole(step).tokens_BT.ids, np.concatenate([h(step).tokens_BT.ids for h in halves])
        )
    steps = -(-len(rows) // 8)
    seen = np.concatenate([whole.numbers(step) for step in range(steps)])[: len(rows)]
    assert sorted(seen) == list(range(len(rows)))


def test_shards_as_the_text_of_a_run(corpus, tmp_path, tokenizer):
    """They are opened and checked before a run, and say which tokenizer a model needs."""
    write_store(str(corpus), tmp_path / "s", tokenizer)
    config = DataConfig(text=f"tokens:{tmp_path}/s")
    config.check()
    assert tokenizer_of_shards(config) == tokenizer
    assert tokenizer_of_shards(DataConfig()) is None
    assert config.fingerprints()["text"] == store.open_store(config.text).fingerprint
    with pytest.raises(UserError, match="are not read row by row"):
        config.read("text", "train")
    with pytest.raises(UserError, match="demonstrations"):
        DataConfig(demonstrations=config.text).read("demonstrations", "test")
    both = DataConfig(text=f"tokens:{tmp_path}/s=0.5,{corpus}=0.5")
    rows = language_rows(both, "train", tokenizer, LENGTH)
    assert pipeline.make_batch_at(rows, 8, seed=0)(3).tokens_BT.ids.shape == (8, LENGTH)
    both.check()


SPARSE = """
import json, sys
from pathlib import Path
import numpy as np
from gpt_jax.data import pipeline, store
folder = Path(sys.argv[1])
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(l.split()[1]) for l in lines if l.startswith(("RssAnon", "RssShmem"))) / 1024
tokens = 50 * 10**9
shard = store.Shard(folder, "00000.train", "uint16", tokens, 1)
rows = store.TokenRows((shard,), 1024, 0)
batch_at = pipeline.make_batch_at(rows, 64, seed=0)
batch_at(0)
before = anonymous()
for step in range(1, 60):
    batch = batch_at(step * 10**4)
assert batch.weights_BT.sum() > 64 * 1000
print(json.dumps({"rows": len(rows), "grown": anonymous() - before}))
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """100 GB of tokens, of which the disk holds none: the file is a hole."""
    with open(tmp_path / "00000.train.tokens", "wb") as file:
        file.truncate(100 * 10**9)
    np.array([50 * 10**9], "<i8").tofile(tmp_path / "00000.train.documents")
    done = subprocess.run(
        [sys.executable, "-c", SPARSE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == -(-(50 * 10**9 - 1) // 1023)
    assert found["grown"] < 20  # MiB


def test_the_tokens_of_a_large_vocabulary_are_wider(tmp_path, corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(Tokenizer, "vocab_size", property(lambda self: 70_000), raising=False)
    assert write_store(str(corpus), tmp_path / "s", tokenizer).facts["dtype"] == "uint32"
    assert tokenizing.bytes_on_disk(str(corpus)) == {Path(corpus): corpus.stat().st_size}


def test_beam_writes_the_same_documents(tmp_path, tokenizer):
    """Each file is a part; and a broken row ends in the sentence that it ends in elsewhere."""
    pytest.importorskip("apache_beam")
    texts = documents(300)
    for i in range(5):
        some = texts[i * 60 : (i + 1) * 60]
        (tmp_path / f"{i}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in some))
    spec, options = f"{tmp_path}/*.jsonl", "--runner=FnApiRunner"
    one = write_store(spec, tmp_path / "one", tokenizer)
    many = beam.write_store(spec, tmp_path / "many", tokenizer, options)
    assert len(many.facts["parts"]) == 5 and many.facts["left_out"] == {}
    for split in ("train", "test"):
        np.testing.assert_array_equal(
            *(np.concatenate([s.ids() for s in of.shards(split)]) for of in (one, many))
        )
    many.verify()
    assert not list((tmp_path / "many").glob("*.part*"))
    (tmp_path / "5.jsonl").write_text('{"txt": "a"}\n')
    with pytest.raises(UserError, match="5.jsonl:1: `text` is missing"):
        beam.write_store(spec, tmp_path / "broken", tokenizer, options)
    with pytest.raises(UserError, match="Beam divides files"):
        beam.write_store("microworld", tmp_path / "m", tokenizer, options)
