"""Files, TFDS data sets and the microworld are read alike, and broken ones stop at once."""

import gzip
import json
import lzma
import sys
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from gpt_jax.data import baselines, hub, local_files, sources, unpacked
from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError

PAIRS = [{"prompt": f"Question {i}?", "chosen": "Yes.", "rejected": "No."} for i in range(400)]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# Files.


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
def test_jsonl(tmp_path, ending):
    path = tmp_path / f"pairs.jsonl{ending}"
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[ending]
    path.write_bytes(pack(jsonl(PAIRS).encode()))
    rows = sources.read(str(path), "comparisons", "all")
    assert len(rows) == 400 and rows[3]["prompt"][0]["content"] == "Question 3?"
    assert len(sources.read(str(path), "prompts", "all")) == 400


def test_json_list(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(PAIRS))
    assert len(sources.read(str(path), "comparisons", "all")) == 400


def test_text_with_marks(tmp_path):
    path = tmp_path / "books.txt"
    path.write_text("One.\n\nStill one.\n<|endoftext|>\nTwo.\n<|endoftext|>\n")
    rows = sources.read(str(path), "text", "all")
    assert [row["text"] for row in rows] == ["One.\n\nStill one.", "Two."]


def test_text_without_marks(tmp_path):
    """Paragraphs are grouped; no word is lost and no paragraph cut."""
    paragraphs = [f"Paragraph {i} " + "word " * (i % 50) + "end." for i in range(300)]
    path = tmp_path / "plain.txt"
    path.write_text("\n\n".join(paragraphs) + "\n")
    texts = [row["text"] for row in sources.read(str(path), "text", "all")]
    assert "\n\n".join(texts) == "\n\n".join(paragraphs)
    assert all(2000 <= len(text) < 2400 for text in texts[:-1])
    path.write_text("Only one line")
    assert sources.read(str(path), "text", "all") == [{"text": "Only one line"}]


def test_text_as_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("First?\n\nSecond?\n")
    contents = [row["prompt"][0]["content"] for row in sources.read(str(path), "prompts", "all")]
    assert contents == ["First?", "Second?"]


@pytest.mark.parametrize(
    ("name", "content", "kind", "said"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "text", "a.jsonl:2: this line is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n\n{"txt": "b"}\n', "text", "a.jsonl:3: `text` is missing"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "\xff"}\n',
            "text",
            "a.jsonl:2: byte 0xff is not UTF-8",
        ),
        ("a.jsonl", b"", "text", "no row for `text`"),
        ("a.txt", b" \n\n", "text", "no row for `text`"),
        ("a.txt", b"abc", "comparisons", "comparisons are read from a .jsonl, .json"),
        ("a.doc", b"abc", "text", "text are read from a .jsonl, .json"),
        ("a.json", b'[{"text": "a"},\n {"text" "b"}]', "text", "a.json:2: this is not JSON"),
        ("a.json", b'{"text": "a"}', "text", "must hold a list of objects, not dict"),
        ("a.json", b'[{"text": "a"}, {"text": ""}]', "text", "a.json: row 2: `text` is empty"),
        ("a.jsonl.gz", b"not packed", "text", "cannot be read"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "abcdef"}', mtime=0)[:-12],
            "text",
            "cannot be read",
        ),
        ("a.jsonl.xz", b"not packed", "text", "cannot be read"),
        ("a.jsonl", b'{"prompt": "a", "completion": ""}', "demonstrations", "no row for `demonst"),
    ],
)
def test_broken_files(tmp_path, name, content, kind, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        sources.read(str(path), kind)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        sources.read(str(tmp_path / "none.jsonl"), "text")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        sources.read(str(tmp_path / "folder.jsonl"), "text")


def test_rows_to_learn_nothing_from_are_left_out(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text(
        jsonl([{"instruction": "a", "output": "b"}, {"instruction": "c", "output": ""}])
    )
    assert len(sources.read(str(path), "demonstrations", "all")) == 1
    assert "left out 1 rows" in capsys.readouterr().err


# The division.


def test_same_opening_lies_on_one_side(tmp_path):
    """Break: hash the whole row in `train_test_split`."""
    rows = [
        {"prompt": [{"role": "user", "content": f"Q{i % 200}"}], "completions": [str(i), ""]}
        for i in range(1000)
    ]
    train, test = sources.train_test_split(rows, seed=1)
    assert sorted(map(str, train + test)) == sorted(map(str, rows)) and 10 < len(test) < 120
    openings = [{row["prompt"][0]["content"] for row in part} for part in (train, test)]
    assert not openings[0] & openings[1]
    assert sources.train_test_split(rows, seed=1) == (train, test)
    assert sources.train_test_split(rows, seed=2)[1] != test
    assert len(sources.train_test_split(rows, test_fraction=0.5, most_test_rows=100)[1]) < 200


def test_files_on_the_same_questions_use_the_same_test_rows():
    """Break: in `train_test_split`, choose among the test rows by all that a row says."""
    prompts = [{"prompt": [{"role": "user", "content": f"Q{i}"}]} for i in range(4000)]
    pairs = [{**row, "completions": ["a", reply]} for row in prompts for reply in "bc"]
    used = [
        {
            row["prompt"][0]["content"]
            for row in sources.train_test_split(rows, most_test_rows=50)[1]
        }
        for rows in (prompts, pairs, prompts[::-1])
    ]
    assert len(used[1]) == 25 and used[1] < used[0] == used[2]


def test_files_joined_by_commas_are_one_source(tmp_path):
    """A row that is in both lies on one side, and on the same as in either file alone.

    Break: in `train_test_split`, let the number of rows decide the threshold.
    """
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    shared = [{"text": f"Shared {i}"} for i in range(2_000)]
    small.write_text(jsonl(shared))
    large.write_text(jsonl(shared + [{"text": f"Large {i}"} for i in range(60_000)]))
    both = f"{small},{large}"
    assert [row["text"] for row in sources.read(both, "text", "all")[1_999:2_001]] == [
        "Shared 1999",
        "Shared 0",
    ]
    parts = (sources.read(both, "text", split) for split in ("train", "test"))
    train, test = ({row["text"] for row in part} for part in parts)
    assert 58_500 < len(train) < 59_500 and 900 < len(test) <= 1_000 and not train & test
    alone = {row["text"] for row in sources.read(str(small), "text", "train")}
    assert alone == train & {row["text"] for row in shared}

    with pytest.raises(UserError, match="missing.jsonl: there is no such file"):
        sources.read(f"{small},{tmp_path}/missing.jsonl", "text")

    named = tmp_path / "one,two.jsonl"
    named.write_text(jsonl(shared))
    assert len(sources.read(str(named), "text", "all")) == 2_000
    assert len(sources.read(",".join([str(small)] * 200), "text", "all")) == 400_000


def test_read_divides_files(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(jsonl(PAIRS))
    parts = [sources.read(str(path), "comparisons", split) for split in ("train", "test", "all")]
    assert len(parts[0]) + len(parts[1]) == len(parts[2]) == 400 and len(parts[1]) > 5
    # Another kind of the same questions is divided alike.
    prompts = sources.read(str(path), "prompts", "test")
    assert [row["prompt"] for row in prompts] == [row["prompt"] for row in parts[1]]


# TFDS and the microworld.


@pytest.fixture
def tfds(tmp_path, monkeypatch):
    """TFDS with a small data set `tiny_pairs` that is kept in a folder of the test."""
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
    features = tensorflow_datasets.features

    class TinyPairs(tensorflow_datasets.core.GeneratorBasedBuilder):
        """Some pairs."""

        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            text = features.Text()
            return tensorflow_datasets.core.DatasetInfo(
                builder=self,
                features=features.FeaturesDict({"prompt": text, "chosen": text, "rejected": text}),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(PAIRS)

    monkeypatch.setattr(tensorflow_datasets.core.constants, "DATA_DIR", str(tmp_path))
    yield tensorflow_datasets
    assert (tmp_path / "tiny_pairs").exists()


def test_tfds(tfds, tmp_path):
    rows = sources.read("tfds:tiny_pairs", "comparisons", "all")
    assert len(rows) == 400 and rows[0]["completions"] == ["Yes.", "No."]
    train, test = (sources.read("tfds:tiny_pairs", "prompts", split) for split in ("train", "test"))
    assert len(train) + len(test) == 400 and test
    with pytest.raises(UserError, match="400 of 400 rows are broken: tfds:tiny_pairs:train:0: "):
        sources.read("tfds:tiny_pairs", "text")

    # Another source is held out: this one is not divided, and that one is read whole.
    path = tmp_path / "pairs.jsonl"
    path.write_text(jsonl(PAIRS[:30]))
    config = DataConfig(comparisons="tfds:tiny_pairs", test_comparisons=str(path))
    assert len(config.read("comparisons", "train")) == 400
    assert len(config.read("comparisons", "test")) == len(config.read("prompts", "test")) == 30


class Splits(NamedTuple):
    """A TFDS data set of named splits, in their order."""

    names: list[str]

    @property
    def info(self):
        return SimpleNamespace(splits=self.names)

    def download_and_prepare(self):
        pass

    def as_data_source(self, split):
        return [{"text": f"{split} {i}"} for i in range(300)]


@pytest.mark.parametrize(
    ("names", "held_out"),
    [(["train", "test"], "test"), (["train", "validation"], "validation"), (["train"], "train")],
)
def test_a_held_out_data_set_is_its_test_split(monkeypatch, names, held_out):
    """Break: read the train split of whatever is named as held out."""
    monkeypatch.setattr(hub, "tfds_builder", lambda spec: Splits(names))
    config = DataConfig(text="tfds:a", test_text="tfds:b")
    monkeypatch.setattr(sources, "source_fingerprint", lambda spec: f"{spec} {names}")
    assert [row["text"] for row in config.read("text", "test")][:1] == [f"{held_out} 0"]
    assert [row["text"] for row in config.read("text", "train")][:1] == ["train 0"]
    assert len(config.read("text", "test")) == 300


class Unprepared(Splits):
    """A data set that would have to be downloaded, on a machine that cannot."""

    def download_and_prepare(self):
        raise ConnectionError("Max retries\nexceeded")


class Odd(Splits):
    """A data set whose texts are not all text, and whose lists are not of one length."""

    def as_data_source(self, split):
        rows = [{"text": f"{split} {i}".encode(), "n": {"a": [1], "b": []}} for i in range(300)]
        return [*rows, {"text": b"caf\xe9"}]


def test_tfds_that_cannot_be_had_or_read(monkeypatch):
    monkeypatch.setattr(hub, "tfds_builder", lambda spec: Unprepared(["train"]))
    with pytest.raises(UserError, match="tfds:a: .*Max retries exceeded") as caught:
        sources.read("tfds:a", "text", "all")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(hub, "tfds_builder", lambda spec: Odd(["train"]))
    with pytest.raises(UserError, match="tfds:a:train:300: .*0xe9 is not UTF-8"):
        sources.read("tfds:a", "text", "all")
    assert len(sources.read("tfds:a", "text", "all", skip_broken=True)) == 300


def test_unknown_tfds():
    with pytest.raises(UserError, match="tfds:no_such_data_set"):
        sources.read("tfds:no_such_data_set", "text")


@pytest.mark.parametrize("kind", [kind for kind in sources.TO_CANONICAL if kind != "feedback"])
def test_microworld(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    test = sources.read("microworld", kind, "test")
    assert len(test) >= 500 and test == sources.read("microworld", kind, "test")
    if kind == "comparisons":
        assert all(len(row["completions"]) == 4 for row in test)
        assert not all(all(row["stopped"]) for row in test)
    if kind == "demonstrations":
        assert [turn["role"] for turn in test[0]["messages"]] == ["user", "assistant"]


# Real files, where they are at hand.


@pytest.mark.parametrize(
    ("file", "kind", "count"),
    [
        ("alpaca/alpaca_first10k.jsonl.gz", "demonstrations", 9994),
        ("alpaca/alpaca_first10k.jsonl.gz", "prompts", 10000),
        ("hh-rlhf/split_train.jsonl.gz", "comparisons", 3727),
        ("hh-rlhf/split_eval.jsonl.gz", "comparisons", 929),
        ("hh-rlhf/harmless-base-test.jsonl.gz", "comparisons", 2312),
        ("preference-small/dpo_zh_500.jsonl.gz", "comparisons", 500),
        ("preference-small/llamafactory_dpo_en_demo.json.gz", "comparisons", 300),
        ("preference-small/llamafactory_dpo_zh_demo.json.gz", "comparisons", 300),
        ("preference-small/llamafactory_kto_en_demo.json.gz", "demonstrations", 150),
        ("preference-small/llamafactory_alpaca_zh_demo.json.gz", "demonstrations", 1000),
        ("preference-small/rasbt_instruction-data-with-preference.json", "comparisons", 1100),
        ("self-instruct/seed_tasks.jsonl", "demonstrations", 175),
        ("tinyshakespeare/input.txt", "text", 498),
        ("wikitext-2/valid.txt.xz", "text", 309),
        ("books-en/books_core.txt.xz", "text", 59),
    ],
)
def test_real_files(shared_data, file, kind, count):
    rows = sources.read(str(shared_data / file), kind, "all")
    assert len(rows) == count
    train, test = sources.train_test_split(rows)
    assert train and test


def test_transcripts_agree_with_the_prepared_split(shared_data):
    """Whole transcripts and the file that was cut beforehand give the same prompts and replies."""
    cut = {
        str(row["prompt"]): row["completions"]
        for part in ("train", "eval")
        for row in sources.read(
            str(shared_data / f"hh-rlhf/split_{part}.jsonl.gz"), "comparisons", "all"
        )
    }
    whole = sources.read(
        str(shared_data / "hh-rlhf/harmless-base-test.jsonl.gz"), "comparisons", "all"
    )
    found = [row for row in whole if str(row["prompt"]) in cut]
    assert len(found) > 0.95 * len(whole)


# What goes wrong, and what is left out.


def test_broken_rows_are_counted_and_the_first_are_named(tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    path.write_text(jsonl(PAIRS) + "{broken\n" * 4 + jsonl([{"prompt": "a", "chosen": 7}] * 3))
    with pytest.raises(UserError, match="7 of 407 rows are broken: .*:401: .*:405: .*and 2 more"):
        sources.read(str(path), "comparisons", "all")
    found = sources.read_counted(str(path), "comparisons", "all", skip_broken=True)
    assert len(found.rows) == 400 and found.left_out == {"broken rows": 7}
    assert "left out 7 broken rows" in capsys.readouterr().err
    config = DataConfig(comparisons=str(path), skip_broken=True)
    assert config.left_out("comparisons")["broken rows"] >= 7


@pytest.mark.parametrize(
    "line",
    [
        *(b"9" * 5000, b"[" * 200_000, b'{"text": ' * 100_000, b"nul", b'{"text": "a"', b"\\ud83d"),
        *(b'{"text": "caf\xe9"}', b'{"text": "a", "text": "b"}'),
        b'{"text": "a", "more": {"n": 1, "n": 2}}',
    ],
    ids=["digits", "brackets", "objects", "word", "cut", "escape", "byte", "twice", "twice within"],
)
def test_json_at_its_limits_is_one_broken_row(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line + b'\n{"text": "fine"}\n')
    with pytest.raises(UserError, match="a.jsonl:1: "):
        sources.read(str(path), "text", "all")
    assert sources.read(str(path), "text", "all", skip_broken=True) == [{"text": "fine"}]


def test_rows_that_are_all_broken_are_named_even_where_they_may_be_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl([{"txt": "a"}] * 7))
    with pytest.raises(UserError, match="7 of 7 rows are broken: .*:1: `text` is missing.*2 more"):
        sources.read(str(path), "text", "all", skip_broken=True)


def test_a_name_that_no_file_can_have():
    for name in ("a\0.txt", "\ud83d.txt", "a" * 5000 + ".txt"):
        with pytest.raises(UserError, match="cannot be read"):
            DataConfig(text=name).read("text", "train")


def test_a_large_test_part_uses_fewer_rows_and_moves_no_line():
    """Neither the rows nor the questions of the training part depend on what else is there."""
    rows = [{"text": f"document {i}"} for i in range(4000)]
    train, test = sources.train_test_split(rows, most_test_rows=50)
    assert len(test) == 50 and test == [row for row in rows if row in test]
    assert train == sources.train_test_split(rows)[0]
    half = sources.train_test_split(rows[:2000])[0]
    assert half == [row for row in train if row in rows[:2000]]


def test_a_long_line_of_text_is_many_documents(tmp_path):
    """Whole words, and all of them."""
    path = tmp_path / "line.txt"
    text = " ".join(f"word{i}" for i in range(20_000))
    path.write_text(text)
    texts = [row["text"] for row in sources.read(str(path), "text", "all")]
    assert "".join(texts) == text and len(texts) > 50 and max(map(len, texts)) <= 2000
    assert sources.read(str(path), "text", "test")


def test_answers_without_a_word_are_half_right():
    rows = [{"completions": ["!", "?"], "ranks": [0, 1]}] * 4
    assert baselines.bag_of_words(rows, rows) == 0.5


# Tables, parquet, patterns, and Hugging Face's data sets.


@pytest.mark.parametrize("separator", [",", "\t"])
def test_tables(tmp_path, separator):
    path = tmp_path / ("a.csv" if separator == "," else "a.tsv")
    cells = [["prompt", "completion", "label"], ['"Why?\nNow"', "So.", "True"], ["b", "c", "False"]]
    path.write_text("\r\n".join(separator.join(row) for row in cells) + "\r\n\r\n")
    rows, left_out = sources.read_counted(str(path), "demonstrations", "all")
    assert [row["messages"][0]["content"] for row in rows] == ["Why?\nNow"]
    assert left_out.total() == 1
    path.write_text(path.read_text() + separator.join("abcd") + "\n")
    with pytest.raises(UserError, match=f"{path}:[56]: this row has 4 cells, but there are 3"):
        sources.read(str(path), "demonstrations", "all")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "must name the columns"),
        ("text,text\na,b\n", "must name the columns, each once"),
        ('text\n"abc\n', "a.csv:2: this is no table"),
        ("text\n\udce9\n", "a.csv:2: byte 0xe9 is not UTF-8"),
    ],
)
def test_broken_tables(tmp_path, content, said):
    path = tmp_path / "a.csv"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=said):
        sources.read(str(path), "text", "all")


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"messages": [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": "A"}]}
        for i in range(700)
    ]
    path = tmp_path / "a.parquet"
    writer.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=100)
    assert sources.read(str(path), "demonstrations", "all") == rows
    assert sources.kind_of(str(path)) == "demonstrations"
    # A cell that is empty is a key that is not there.
    table = pyarrow.table({"prompt": ["a", "b"], "completion": ["c", None]})
    writer.write_table(table, path)
    with pytest.raises(UserError, match="row 2: a demonstration needs"):
        sources.read(str(path), "demonstrations", "all")
    table = pyarrow.table({"text": [b"fine", b"caf\xe9"]})
    writer.write_table(table, path)
    with pytest.raises(UserError, match="row 2: byte 0xe9 of `text` is not UTF-8"):
        sources.read(str(path), "text", "all")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="a.parquet: it cannot be read"):
        sources.read(str(path), "text", "all")


def test_a_library_that_is_missing_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("a.parquet", "a.jsonl.zst"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(UserError, match=r'pip install "(pyarrow|zstandard)"'):
            sources.read(str(tmp_path / name), "text", "all")
    with pytest.raises(UserError, match='pip install "datasets"'):
        sources.read("hf:a/b", "text", "all")


def test_zst_of_several_frames_and_a_cut_one(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "a.jsonl.zst"
    frames = [zstandard.compress(f'{{"text": "{i}"}}\n'.encode() * 5) for i in range(3)]
    path.write_bytes(b"".join(frames))
    assert len(sources.read(str(path), "text", "all")) == 15
    path.write_bytes(b"".join(frames)[:-3])
    with pytest.raises(UserError, match="it ends before its last frame does"):
        sources.read(str(path), "text", "all")


def test_patterns(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/2.jsonl", "a/1.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(jsonl([{"text": name}]))
    read = lambda spec: [r["text"] for r in sources.read(f"{tmp_path}/{spec}", "text", "all")]  # noqa: E731
    assert read("a/*.jsonl") == ["a/1.jsonl", "a/2.jsonl"]
    assert read("**/*.jsonl") == ["a/1.jsonl", "a/2.jsonl", "b.jsonl"]
    (tmp_path / "[c]*.jsonl").write_text(jsonl([{"text": "marks"}]))
    assert read("[c]*.jsonl") == ["marks"]
    with pytest.raises(UserError, match="no file is named like that"):
        read("*.txt")
    (tmp_path / "a" / "3.jsonl").symlink_to("1.jsonl")
    assert len(read("a/*.jsonl")) == 3
    (tmp_path / "a" / "4.jsonl").symlink_to(tmp_path / "b.jsonl")
    with pytest.raises(UserError, match="4.jsonl: this link leads out of a"):
        read("a/*.jsonl")
    assert read("a/4.jsonl") == ["b.jsonl"]


def test_text_does_not_depend_on_where_a_block_ends(tmp_path, monkeypatch):
    """Marks, paragraphs, line ends and characters that two blocks share."""
    texts = {
        "marked.txt": "One.\r\n字字<|endoftext|>\nTwo 🙂\n\nstill two<|endoftext|>Three",
        "plain.txt": "\n\n".join(f"paragraph {i} " + "字 " * (i * 37 % 900) for i in range(60)),
        "long.txt": "\n" + "a word\nor " * 9000 + "\n\nnext\n\n" + "字" * 70_000 + "\n\n\nlast",
        "lines.txt": "a\r\nb\n\n🙂c\rd\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, newline="")
        kind = "prompts" if name == "lines.txt" else "text"
        whole = list(local_files.read_file(tmp_path / name, kind))
        assert len(whole) > 2
        for block in (1, 2, 3, 7, 64, 1000):
            if block * 1000 < len(text):
                continue
            monkeypatch.setattr(unpacked, "BLOCK", block)
            monkeypatch.setattr(local_files, "LONGEST_WAIT", 60_000)
            assert list(local_files.read_file(tmp_path / name, kind)) == whole, (name, block)
        monkeypatch.undo()


def test_hugging_face_folder(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "pairs"
    folder.mkdir()
    for split, count in (("train", 30), ("test", 7)):
        (folder / f"{split}.jsonl").write_text(jsonl(PAIRS[:count]))
    spec = f"hf:{folder}"
    assert len(sources.read(spec, "comparisons", "train")) == 30
    assert len(sources.read(spec, "comparisons", "held_out")) == 7
    before = sources.source_fingerprint(spec)
    assert before == sources.source_fingerprint(spec)
    (folder / "train.jsonl").write_text(jsonl(PAIRS[:31]))
    assert sources.source_fingerprint(spec) != before

    def no_network(*_):
        raise ConnectionError("Max retries\nexceeded")

    monkeypatch.setattr(datasets, "get_dataset_split_names", no_network)
    with pytest.raises(UserError, match="hf:no/such: `datasets` cannot read .*retries exceeded"):
        sources.read("hf:no/such", "text", "all")
    for broken in ("hf:", "hf:a//b", "hf:a/b/c/d"):
        with pytest.raises(UserError, match="write hf:ORG/NAME"):
            sources.read(broken, "text", "all")
