"""The table and plot of weak scaling, drawn from a kept plan as if it were several."""

import json
from pathlib import Path

from tools import weak_scaling

KEPT = Path(__file__).resolve().parents[2] / "docs" / "plans" / "gpt3_175b_pretrain.json"


def test_a_row_and_a_point_for_every_plan(tmp_path):
    plan = json.loads(KEPT.read_text())
    plans = [plan | {"devices": devices} for devices in (8, 512, 4096)]
    rows = weak_scaling.table(plans).splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["8", "512", "4,096"]
    assert f"{plan['step']['mfu']:.1%}" in rows[2]
    weak_scaling.plot(plans, "GPT-3", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
