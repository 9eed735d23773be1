"""Whatever has become of the small files of a run folder: a value, or one sentence that names it.

Break it: read one of them with `json.loads`.
"""

import dataclasses

import pytest

from gpt_jax.errors import UserError
from gpt_jax.metrics import MetricWriter, read_metrics
from gpt_jax.report import write_report
from gpt_jax.report.openings import read_openings
from gpt_jax.rl.scoring import trained_length
from gpt_jax.train import command
from gpt_jax.train.checkpoint import load_model_files
from gpt_jax.train.inputs import compare_inputs
from gpt_jax.train.record import compare_config
from gpt_jax.train.seconds import seconds_of
from gpt_jax.train.served import recorded_stage

DAMAGED = {
    "empty": b"",
    "half": b'{"a": 1,',
    "null": b"null",
    "list": b"[]",
    "number": b"3",
    "no UTF-8": b'{"a": "\xff"}\n',
    "deep": b"[" * 200_000,
    "digits": b'{"stage": ' + b"9" * 5000 + b"}",
    "other types": b'{"stage": ["a"], "type": ["a"], "longest": "x", "step": Infinity}\n',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = ""


READERS = {
    "config.json": [lambda f: compare_config(f, "test", Config()), recorded_stage, write_report],
    "inputs.json": [lambda f: compare_inputs(f, Config())],
    "data.json": [trained_length, write_report],
    "model.json": [load_model_files],
    "results.json": [write_report],
    "seconds.json": [seconds_of],
    "metrics.jsonl": [read_metrics, write_report],
    "samples.jsonl": [read_openings, write_report],
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_sentence(name, tmp_path):
    for content in DAMAGED.values():
        (tmp_path / name).write_bytes(content)
        for read in READERS[name]:
            try:
                read(tmp_path)
            except UserError as error:
                assert str(error).startswith(str(tmp_path)) and "\n" not in str(error)


@pytest.mark.parametrize("use", [read_metrics, write_report, MetricWriter])
def test_a_folder_in_the_place_of_the_metrics_is_one_sentence(use, tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        use(tmp_path)
