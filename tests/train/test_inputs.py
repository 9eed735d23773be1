"""A run folder notices that what it was made from has changed."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from gpt_jax.data.config import DataConfig
from gpt_jax.data.left_out import LeftOut
from gpt_jax.errors import UserError
from gpt_jax.train import command
from gpt_jax.train.inputs import compare_inputs, fingerprint, record_inputs
from gpt_jax.train.launch import save_data_file
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.run import FINISHED, is_finished


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str
    init_from: str | None = None


def stage_folder(path, sums="1"):
    """What `fingerprint` reads of a stage's folder."""
    (path / "checkpoints" / "10" / "checksums").mkdir(parents=True, exist_ok=True)
    (path / "checkpoints" / "10" / "checksums" / "metadata").write_text(sums)
    (path / "model.json").write_text("{}")
    return path


def test_data_that_changed_under_the_same_path_are_named(tmp_path):
    """Break it: leave `compare_inputs` out of `is_finished`."""
    text, folder = tmp_path / "text.jsonl", tmp_path / "run"
    text.write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(99)))
    config = Config(run_dir=str(folder), data=DataConfig(text=str(text)))
    record_config(folder, "test", config)
    record_inputs(folder, config)
    (folder / FINISHED).touch()
    assert is_finished("test", config)
    text.write_text('{"text": "another"}\n')
    before = (folder / "inputs.json").read_bytes()
    with pytest.raises(UserError, match="another state of data.text, which has changed since"):
        is_finished("test", config)
    with pytest.raises(UserError, match="another state of data.text"):
        record_inputs(folder, config)
    assert (folder / "inputs.json").read_bytes() == before


def test_an_earlier_stage_that_went_on_is_named(tmp_path):
    earlier, folder = stage_folder(tmp_path / "earlier"), tmp_path / "run"
    config = Config(run_dir=str(folder), init_from=str(earlier))
    record_inputs(folder, config)
    compare_inputs(folder, config)
    before = fingerprint(earlier)
    stage_folder(earlier, sums="2")
    assert fingerprint(earlier) != before
    with pytest.raises(UserError, match=f"another state of init_from {earlier}"):
        compare_inputs(folder, config)


def test_another_chat_template_is_another_model(tmp_path):
    """Break it: read `tokenizer.json` alone."""
    before = fingerprint(stage_folder(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("{}x")
    assert fingerprint(tmp_path) != before


def test_folders_may_be_moved_together(tmp_path):
    """Break it: name an earlier stage by its path in config.json or inputs.json."""
    config = Config(
        run_dir=str(tmp_path / "a/run"), init_from=str(stage_folder(tmp_path / "a/sft"))
    )
    folder = Path(config.run_dir)
    record_config(folder, "test", config)
    record_inputs(folder, config)
    shutil.move(tmp_path / "a", tmp_path / "b")
    folder = tmp_path / "b/run"
    moved = Config(run_dir=str(folder), init_from=str(tmp_path / "b/sft"))
    assert not compare_config(folder, "test", moved)
    compare_inputs(folder, moved)
    other = Config(run_dir=str(folder), init_from=str(stage_folder(tmp_path / "c", sums="3")))
    with pytest.raises(UserError, match=f"another state of init_from {tmp_path}/c"):
        compare_inputs(folder, other)


def test_a_damaged_record_is_one_sentence(tmp_path):
    config = Config(run_dir=str(tmp_path))
    (tmp_path / "inputs.json").write_text("{")
    with pytest.raises(UserError, match="inputs.json is damaged"):
        compare_inputs(tmp_path, config)


def test_rows_left_out_while_reading_are_in_the_report_too(tmp_path):
    """Invariant 14. Break it: leave `data.left_out` out of `save_data_file`."""
    rows = [{"prompt": f"what is {i}?", "completion": "this." * (i % 7 > 0)} for i in range(200)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(demonstrations=str(tmp_path / "a.jsonl"))
    save_data_file(tmp_path, "sft", data, ("demonstrations",), LeftOut())
    (entry,) = json.loads((tmp_path / "data.json").read_text())["left_out"]
    assert entry["count"] == 29 and "reply is empty" in entry["what"]
