"""The two commands that look at data and tokenize it, and training on what they wrote."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import rich

from experiments import data, pretrain, tokenize
from gpt_jax.data import mixed, store
from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.text.tokenizer import Tokenizer

SENTENCE = "the quick brown fox jumps over the lazy dog while thirteen other words go by here"


@pytest.fixture
def folder(tmp_path):
    rows = {
        "text": [{"text": f"{i} is a document. " * (1 + i % 9)} for i in range(300)],
        "pairs": [
            {"prompt": f"{i}?", "chosen": "Yes, it is.", "rejected": "No"} for i in range(200)
        ],
        "exams": [{"text": f"{i} is an exam. " * (1 + i % 5)} for i in range(100)],
        "chats": [{"prompt": f"What {i}?", "completion": f"{SENTENCE} {i}"} for i in range(40)],
    }
    rows["chats"].append({"prompt": "a", "completion": ""})
    for name, some in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": SENTENCE}) + "\n")
    Tokenizer.train((row["text"] for row in rows["text"]), 300).save(tmp_path)
    return tmp_path


def shown(capsys, *arguments, **options):
    rich.get_console().width = 400  # so that no sentence is broken
    data.show(data.Config(*map(str, arguments), **options))
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_conversations_are_shown(folder, capsys):
    out = shown(
        capsys,
        folder / "chats.jsonl",
        tokenizer=str(folder),
        length=64,
        against=str(folder / "exam.jsonl"),
    )
    assert "as demonstrations" in out and "rows 40" in out
    assert "left out 1 rows whose reply is empty" in out
    assert "demonstrations cut within their last answer to fit 64 tokens" in out
    assert "1 of 1 rows (1) share 13 words in a row with 40 rows of the source" in out
    assert out.count("Example ") == 5 and "near duplicates" in out


def test_comparisons_are_shown_with_their_baselines(folder, capsys):
    out = shown(capsys, folder / "pairs.jsonl")
    assert "as comparisons" in out and "the longer answer wins 1.000 of" in out
    assert "bag of words 1.000 of" in out


def test_a_mixture_is_shown(folder, capsys):
    out = shown(capsys, f"{folder}/text.jsonl=0.7,{folder}/exams.jsonl=0.3", kind="text")
    assert "as text" in out and "percentiles" in out


def test_text_becomes_shards_and_they_are_trained_on(folder, capsys):
    spec = str(folder / "text.jsonl")
    config = tokenize.Config(spec, output=str(folder / "s"), tokenizer=str(folder))
    tokenize.main(config)
    said = capsys.readouterr().out
    assert "documents" in said and f"--data.text tokens:{folder}/s" in said
    tokenize.main(config)  # there is nothing more to do
    assert "all checksums are right" in shown(capsys, f"tokens:{folder}/s")

    smoke = pretrain.smoke()
    recipe = smoke.pretrain
    for text, kind in (
        (f"tokens:{folder}/s", store.TokenRows),
        (f"tokens:{folder}/s=0.9,{folder}/text.jsonl=0.1", mixed.Mixed),
    ):
        whole = pretrain.Config(
            preset="smoke",
            run_dir=str(folder / "run"),
            data=DataConfig(text=text),
            mesh=MeshConfig(),
            pretrain=pretrain.Pretrain(
                model=dataclasses.replace(recipe.model, vocab_size=281),
                optimizer=recipe.optimizer,
                train=recipe.train,
            ),
        )
        tokenizer = pretrain.tokenizer_of(whole)
        stage = pretrain.prepare(whole, tokenizer, make_mesh(whole.mesh))
        assert isinstance(stage.batch_at.rows, kind)
        batch = stage.batch_at(3)
        assert batch.tokens_BT.ids.shape == (recipe.train.batch_size, 128)
        assert np.array_equal(stage.batch_at(3).tokens_BT.ids, batch.tokens_BT.ids)
        assert stage.samples and stage.tokens_at(0) == recipe.train.batch_size * 128
    assert "90.0% of the tokens, " in capsys.readouterr().out
    with pytest.raises(
        UserError, match="has 281 tokens, not 512; give --pretrain.model.vocab-size"
    ):
        pretrain.tokenizer_of(pretrain.Config(pretrain=recipe, data=DataConfig(text=text)))


@pytest.mark.parametrize("command", ["data", "tokenize"])
def test_the_command_line_ends_in_a_sentence(folder, command):
    arguments = ["--output", f"{folder}/o", "--tokenizer", str(folder)] * (command == "tokenize")
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{command}", f"{folder}/none.jsonl", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "there is no such file" in done.stderr
    assert "Traceback" not in done.stderr and not (folder / "o" / "store.json").exists()
