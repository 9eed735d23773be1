"""The metric file survives being killed, and numbers come back as they went in."""

import builtins
import json
import math

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.metrics import MetricWriter, mean, read_metrics
from gpt_jax.readable import clock
from gpt_jax.train import progress


def test_rows_round_trip_non_finite_included(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": np.float32(0.1), "lr": 3e-4})
        writer.write(2, {"loss": math.nan, "up": math.inf, "down": -math.inf})
    first, second = read_metrics(tmp_path)
    assert first == {"step": 1, "loss": float(np.float32(0.1)), "lr": 3e-4}
    assert math.isnan(second["loss"])
    assert second["up"] == math.inf and second["down"] == -math.inf
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_row_is_on_disk_before_the_writer_closes(tmp_path):
    """Break it: delete `self._file.flush()` in MetricWriter.write."""
    writer = MetricWriter(tmp_path)
    writer.write(7, {"loss": 1.0})
    assert read_metrics(tmp_path) == [{"step": 7, "loss": 1.0}]
    writer.close()


def test_truncate_drops_later_steps_and_writing_goes_on(tmp_path):
    with MetricWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": float(step)})
        writer.truncate(3)
        writer.write(4, {"loss": 40.0})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 2.0, 3.0, 40.0]


def test_a_half_written_last_line_is_dropped(tmp_path):
    """Break it: delete the call of `_drop_torn_line` in MetricWriter.__init__."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    with MetricWriter(tmp_path) as writer:
        writer.write(2, {"loss": 1.0})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ["{}", "[1]", "nonsense", '{"step": 1, "loss": null}'])
def test_a_broken_line_names_file_and_line(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)


def test_no_file_no_rows(tmp_path):
    assert read_metrics(tmp_path / "absent") == []


def test_mean_is_taken_once_over_all_that_was_counted():
    """Sums over uneven micro-batches: the mean of means would be 2.5."""
    sums, counts = np.float32(1.0 + 8.0), np.int32(1 + 2)
    assert mean({"loss": (sums, counts)}) == {"loss": 3.0}
    assert math.isnan(mean({"loss": (0.0, 0)})["loss"])


def test_tensorboard_writes_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    with MetricWriter(tmp_path, tensorboard=True) as writer:
        writer.write(1, {"loss": 2.0})
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_writer_names_the_extra(tmp_path, monkeypatch, name):
    real_import = builtins.__import__

    def without(module, *args, **kwargs):
        if module in ("tensorboardX", "wandb"):
            raise ImportError(module)
        return real_import(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=rf"gpt_jax\[{name}\]"):
        MetricWriter(tmp_path, **{name: True})


def test_progress_in_a_log_prints_a_line_now_and_then_and_at_the_end(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress("sft", total=100) as bar:
        for step in range(1, 101):
            now[0] += 0.25
            bar.update(step, loss=1 / step, tokens_per_second=41_234.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3  # at 10 s, at 20 s, and the end at 25 s
    assert lines[0] == "sft  40/100  loss 0.025  41.2k tokens/s  0:10 elapsed  0:15 left"
    assert lines[-1] == "sft  100/100  loss 0.01  41.2k tokens/s  0:25 elapsed"


def test_progress_of_a_resumed_run_does_not_count_old_steps_as_speed(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress("ppo", total=1000, done=900) as bar:
        for step in range(901, 912):
            now[0] += 1.0
            bar.update(step, reward=0.5)
    assert "911/1,000  reward 0.5  0:11 elapsed  1:29 left" in capsys.readouterr().out


def test_clock():
    assert [clock(s) for s in (7.9, 754, 3723)] == ["0:07", "12:34", "1:02:03"]
