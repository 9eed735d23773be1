"""A thousand and more broken inputs: each is read rightly, or ends in one sentence, in time."""

import contextlib
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_jax.data import local_files, sources, store, tables, unpacked
from gpt_jax.data.config import DataConfig
from gpt_jax.data.tokenizing import write_store
from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer

TURNS = [{"role": "user", "content": "Why? 为什么"}, {"role": "assistant", "content": "Because."}]
ROWS = {
    "text": [{"text": f"A document, number {i}. 文档"} for i in range(30)],
    "demonstrations": [
        {"messages": TURNS},
        {"prompt": "Why?", "completion": "So."},
        {"instruction": "Why?", "context": "", "response": "So."},
        {"question": "Why?", "answer": "#### 1"},
        {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Why?"},
        {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "So.", "rank": 0},
    ],
    "comparisons": [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        {"instruction": "Why?", "completions": [{"response": "a", "overall_score": 1.5}] * 3},
        {"post": "Long.", "summaries": [{"text": "a"}, {"text": "b"}], "choice": 0},
    ],
    "prompts": [{"prompt": "Why?"}, {"user_prompt": "Why?"}, {"messages": TURNS[:1]}],
}
ODD = [
    None,
    True,
    0,
    -1,
    float("nan"),
    float("inf"),
    10**30,
    "",
    " ",
    [],
    {},
    [[]],
    "\udc00",
    "\x00",
]
ENCODINGS = ("utf-16", "latin-1", "gbk", "utf-8-sig", "cp037", "utf-32-le")


def rows_of(rng, kind):
    rows = json.loads(json.dumps(ROWS[kind]))
    rng.shuffle(rows)
    rows = rows[: rng.randint(1, len(rows))]
    for _ in range(rng.choice([0, 0, 1, 2])):
        row = rng.choice(rows)
        key = rng.choice(list(row))
        match rng.randrange(4):
            case 0:
                del row[key]
            case 1:
                row[key] = rng.choice(ODD)
            case 2:
                row[f"{key}_"] = row.pop(key)
            case _:
                rows.append(dict(row))  # an id, or all of it, a second time
        rows = [row or {"x": 1} for row in rows]
    return rows


def written(rng, rows, ending):
    """The bytes of a file, in some encoding."""
    if ending == "jsonl":
        text = rng.choice(["\n", "\r\n", "\n\n"]).join(json.dumps(row) for row in rows)
    elif ending == "json":
        text = json.dumps(rows if rng.random() < 0.9 else {"rows": rows})
    elif ending in ("csv", "tsv"):
        columns = sorted({key for row in rows for key in row})
        lines = [columns, *([str(row.get(key, "")) for key in columns] for row in rows)]
        mark = "," if ending == "csv" else "\t"
        text = "\n".join(mark.join(f'"{c}"' for c in line) for line in lines)
    else:
        text = rng.choice(["\n\n", "<|endoftext|>", "\n"]).join(str(row) for row in rows)
    text = text.encode("utf-8", "replace").decode()
    if rng.random() < 0.15:
        return text.encode(rng.choice(ENCODINGS), "replace")
    return text.encode()


def parquet(rng, rows):
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    columns = sorted({key for row in rows for key in row})
    cells = {
        key: [str(row.get(key)).encode("utf-8", "replace").decode() for row in rows]
        for key in columns
    }
    if rng.random() < 0.3:
        cells[columns[0]] = [rng.choice([None, b"\xff", 1.5]) for _ in rows]
        cells[columns[0]] = [cells[columns[0]][0]] * len(rows)
    out = io.BytesIO()
    writer.write_table(pyarrow.table(cells), out)
    return out.getvalue()


def packed(data, packing):
    if packing == ".zst":
        return pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    return {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[packing](data)


def hurt(rng, data):
    """Now and then cuts a file, or changes, inserts or repeats some of its bytes."""
    if not data or rng.random() < 0.4:
        return data
    at, other = sorted(rng.randrange(len(data)) for _ in range(2))
    match rng.randrange(5):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        case 2:
            return data[:at] + rng.randbytes(5) + data[at:]
        case 3:
            return data[:at] + data[other:]
        case _:
            return data + data


@contextlib.contextmanager
def one_sentence():
    """Whatever is read within: it works, or ends in one sentence that can be printed."""
    try:
        yield
    except UserError as error:
        sentence = str(error)
        assert "\n" not in sentence and 10 < len(sentence) < 3000, sentence
        sentence.encode("utf-8", "surrogateescape")


@pytest.fixture
def small(monkeypatch):
    """Limits that small files reach."""
    for module in (unpacked, local_files, tables):
        monkeypatch.setattr(module, "LARGEST_ROW", 2**16)


@pytest.mark.parametrize("seed", range(16))
def test_files(tmp_path, small, seed, capsys):
    """75 files a seed, 1,200 in all."""
    rng = random.Random(seed)
    for number in range(75):
        kind = rng.choice(list(ROWS))
        ending = rng.choice(["jsonl", "json", "csv", "tsv", "txt", "parquet", "doc"])
        packing = rng.choice(["", "", ".gz", ".xz", ".zst"]) if ending != "parquet" else ""
        rows = rows_of(rng, kind)
        if rng.random() < 0.05:
            rows.append({"text": "long " * 20_000, "prompt": "b" * 70_000})
        data = parquet(rng, rows) if ending == "parquet" else written(rng, rows, ending)
        if rng.random() < 0.04:
            data += b"\x00" * 20_000_000 * (packing != "")  # what unpacks to far too much
        data = hurt(rng, packed(hurt(rng, data), packing))
        path = tmp_path / f"{number}.{ending}{packing}"
        path.write_bytes(data)
        spec = str(path)
        match rng.randrange(12):
            case 0:
                spec = f"{tmp_path}/*.{ending}{packing}"
            case 1:
                spec = f"{path},{tmp_path}/missing.{ending}"
            case 2:
                spec = f"{path}=1,{path}=2"
            case 3:
                link = tmp_path / f"link{number}"
                link.mkdir()
                (link / f"a.{ending}").symlink_to(path)
                spec = f"{link}/*"
        with one_sentence():
            found = sources.read(spec, kind, "all", skip_broken=rng.random() < 0.3)
            assert found and all(isinstance(row, dict) for row in found)


@pytest.mark.parametrize("seed", range(4))
def test_names(tmp_path, monkeypatch, seed):
    """100 names a seed of sources that mostly are none."""
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS["text"]))
    Path("d.jsonl").mkdir()
    os.mkfifo("p.jsonl")
    Path("loop.jsonl").symlink_to("loop.jsonl")
    Path("out").mkdir()
    Path("out/x.jsonl").symlink_to(tmp_path / "a.jsonl")
    pieces = ["a.jsonl", "d.jsonl", "p.jsonl", "loop.jsonl", "out/*", "*", "**/*.jsonl", "[", "]"]
    pieces += [
        "=0.5",
        "=1",
        "=nan",
        "=-1",
        ",",
        "",
        " ",
        "\x00",
        "~",
        "..",
        "/",
        "x" * 300,
        "tokens:",
    ]
    pieces += ["/dev/zero", "=", "0.5", "\udc80", "é", "?", "{a}", "tokens:out"]
    rng = random.Random(seed)
    for _ in range(100):
        spec = "".join(rng.choices(pieces, k=rng.randint(1, 5)))
        with one_sentence():
            config = DataConfig(text=spec or "x", skip_broken=rng.random() < 0.5)
            config.fingerprints()
            assert config.read("text", "train")


def mutated(rng, value):
    """A JSON value with one place changed."""
    holder, key = [value], 0
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.8:
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    if rng.random() < 0.3 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = rng.choice([*ODD[:-2], "uint32", "../x", 2**70, [1, 2], {"a": 1}])


@pytest.mark.parametrize("seed", range(4))
def test_token_shards(tmp_path, seed):
    """50 a seed whose store.json or files are not what they were."""
    corpus = tmp_path / "a.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in ROWS["text"] * 5))
    write_store(str(corpus), tmp_path / "s", Tokenizer.train(["abc"], 270))
    facts = (tmp_path / "s" / "store.json").read_text()
    tokens = (tmp_path / "s" / "00000.train.tokens").read_bytes()
    rng = random.Random(seed)
    for _ in range(50):
        whole = json.loads(facts)
        if rng.random() < 0.7:
            mutated(rng, whole)
        text = json.dumps(whole).encode()
        (tmp_path / "s" / "store.json").write_bytes(hurt(rng, text))
        (tmp_path / "s" / "00000.train.tokens").write_bytes(hurt(rng, tokens))
        store._mapped.cache_clear()
        with one_sentence():
            opened = store.open_store(f"tokens:{tmp_path}/s")
            shards = tuple(shard for shard in opened.shards("train") if shard.tokens)
            rows = store.TokenRows(shards, 16, 0)
            rows.take([0, len(rows) - 1])
            list(opened.held_out_texts())


BOMBS = """
import gzip, json, lzma, resource, sys
from pathlib import Path
from gpt_jax.data import sources
from gpt_jax.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        sources.read(name, "text", "all")
        print("read", name)
    except UserError as error:
        print("refused", str(error)[:200])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_decompression_bombs_do_not_fill_the_memory(tmp_path):
    """160 MiB of nothing or more in a file of a few, in every packing."""
    zstandard, pyarrow = pytest.importorskip("zstandard"), pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    block = b'{"text": "' + b"a" * (2**20 - 20) + b'"}\n'
    names = {"a.jsonl.gz": gzip, "b.txt.xz": lzma, "c.csv.zst": zstandard, "d.json.gz": gzip}
    for name, library in names.items():
        with library.open(tmp_path / name, "wb") as file:
            for _ in range(160):
                file.write(block)
    same = pyarrow.array(["a" * 1000]).cast(pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))
    column = same.take(pyarrow.array([0] * 300_000, pyarrow.int32()))
    writer.write_table(pyarrow.table({"text": column}), tmp_path / "e.parquet")
    paths = [str(tmp_path / name) for name in [*names, "e.parquet"]]
    assert all(os.path.getsize(path) < 8 * 2**20 for path in paths)
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *lines, grown = done.stdout.splitlines()
    assert len(lines) == 5 and all(line.startswith("refused") for line in lines), lines
    assert float(grown) < 3 * 1024  # MiB
