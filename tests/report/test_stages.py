"""One table says what a report shows of a stage, and the page finds the right entry of it."""

import json
import subprocess
import sys

import pytest

from gpt_jax.metrics import MetricWriter
from gpt_jax.report import write_report
from gpt_jax.report.stages import STAGES, Chart, Line, StageView, stage_verdict, view_of

LOSS = [{"step": 1, "loss": 2.0}]
RANKING = [{"step": 1, "loss": 0.6, "accuracy": 0.5}, {"step": 1, "eval/accuracy": 0.75}]
SCORES = [{"step": 1, "objective/scores": 1.0, "objective/kl": 0.5}]


def _write(folder, rows, **config):
    with MetricWriter(folder) as writer:
        for row in rows:
            writer.write(row["step"], {name: row[name] for name in row if name != "step"})
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return write_report(folder).read_text()


def test_the_configuration_names_the_stage_of_a_folder_under_any_name(tmp_path):
    """Break it: look at the folder's name only in `view_of`."""
    assert "<h3>Supervised finetuning</h3>" in _write(tmp_path / "mine", LOSS, stage="sft")
    assert "<h3>Reward model</h3>" in _write(tmp_path / "sft", RANKING, stage="reward")


@pytest.mark.parametrize("stage", [None, "unheard of", 3, ["sft"]])
@pytest.mark.parametrize(
    "rows, view", [(LOSS, "pretrain"), (RANKING, "reward"), (SCORES, "ppo"), ([{"step": 1}], "ppo")]
)
def test_without_a_name_the_metrics_decide(rows, view, stage):
    found = view_of("mine", {"stage": stage}, rows)
    assert found.title == "mine"
    if len(rows[0]) > 1:
        assert found[1:] == STAGES[view][1:]
    else:
        assert stage_verdict(found, rows) == "Metrics of 1 steps."


def test_a_stage_more_is_one_entry(tmp_path, monkeypatch):
    charts = (Chart("Fifth", "units", (Line("fifth/metric", "train", "#123456"),)),)
    view = StageView("A fifth stage", charts, lambda rows: f"{rows[-1]['fifth/metric']:.0f} units.")
    monkeypatch.setitem(STAGES, "fifth", view)
    page = _write(tmp_path / "fifth", [{"step": 1, "fifth/metric": 5.0}])
    assert "<h3>A fifth stage</h3>" in page and "5 units." in page
    assert "<figcaption>Fifth</figcaption>" in page
    whole = write_report(tmp_path).read_text()
    assert "A fifth stage" in whole and "PPO" in whole


def test_a_run_shows_the_stages_it_is_made_of(tmp_path):
    """A recipe without a stage has no empty section of it; a stage that is there is shown."""
    (tmp_path / "config.json").write_text(json.dumps({"sft": {}, "ppo": {}}))
    (tmp_path / "reward").mkdir()
    page = write_report(tmp_path).read_text()
    shown = {name for name in STAGES if f"<h3>{STAGES[name].title}</h3>" in page}
    assert shown == {"sft", "reward", "ppo"}


def test_a_verdict_needs_no_metric_in_particular():
    """A killed run has what it has."""
    for name in STAGES:
        for rows in (LOSS, RANKING, SCORES, [{"step": 4}], [{"step": 1, "eval/loss": 1.0}]):
            assert stage_verdict(STAGES[name], rows).endswith(".")


def test_answers_without_a_score_are_in_the_verdict():
    dropped = [SCORES[0] | {"step": n, "val/dropped_rows": 2.0} for n in (1, 2)]
    assert stage_verdict(STAGES["ppo"], dropped).endswith(
        "4 answers of these had no score and were left out."
    )
    assert "no score" not in stage_verdict(STAGES["ppo"], SCORES)


def test_an_objective_of_its_own_is_drawn_beside_the_loss(tmp_path):
    page = _write(tmp_path / "mine", [{"step": 1, "loss": 2.0, "objective": 1.5}])
    assert "<figcaption>Loss</figcaption>" in page and "<figcaption>Objective</figcaption>" in page


def test_matplotlib_waits_for_the_first_plot():
    """Break it: import matplotlib at the top of report/plots.py."""
    code = "import sys, gpt_jax.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
