"""The results of many seeds as one."""

import json

import numpy as np
import pytest
import scipy.stats

from gpt_jax.evaluate.over_seeds import over_seeds
from gpt_jax.report import run_verdict
from gpt_jax.report.breakdown import results_tables
from gpt_jax.report.plots import result_charts, stage_charts
from gpt_jax.report.stages import Chart, Line
from gpt_jax.report.sweep import values_of

GOLD = {"SFT": [0.4, 0.5, 0.45], "PPO": [0.6, 0.8, 0.65]}


def result(seed):
    """What a run leaves, with one kind of question more in the first seed."""

    def model(name):
        gold = GOLD[name][seed]
        kind = {"prompts": 10 + seed, "right": [gold, 0.0, 1.0], "unknown": 0.1, "wrong": 0.2}
        found = {
            "name": name,
            "gold": [gold, gold - 0.3, gold + 0.3],
            "reward": [1.0 + seed, None, None],
            "right": [gold, 0.0, 1.0],
            "unknown": 0.1 * seed,
            "wrong": 0.2,
            "by_kind": {"fact": kind} | ({"note": kind} if seed == 0 else {}),
            "kl_from_sft": 0.0 if name == "SFT" else 2.0 + seed,
            "length": 9.5,
            "entropy": None if name == "SFT" else 0.5,
            "win_rate_vs_sft": None,
        }
        if name == "PPO":
            gain = gold - GOLD["SFT"][seed]
            found |= {"difference_vs_sft": [gain, -1.0, 1.0], "wins_vs_sft": 0.5 + 0.1 * seed}
            found |= {"ties_vs_sft": 0.1, "losses_vs_sft": 0.4 - 0.1 * seed}
        return found

    return {
        "experiment": "rlhf",
        "preset": "tiny",
        "seed": seed,
        "models": [model("SFT"), model("PPO")],
        "reward_model": {"accuracy": [0.9, 0.8, 1.0], "pairs": 100 + seed, "own_samples": {}},
        "left_out": [{"what": "prompts", "count": 1 + seed}],
        "seconds": {"ppo": 10.0 + seed},
        "peak_memory_gb": 1.0 + seed,
        "machine": {},
        "samples": [{"prompt": str(seed), "answers": {}}],
    }


@pytest.fixture(scope="module")
def together():
    return over_seeds([result(seed) for seed in range(3)])


def test_every_interval_is_one_over_seeds(together):
    """Break it: average the ends of the seeds' own intervals."""
    sft, ppo = together["models"]
    values = GOLD["PPO"]
    ends = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    np.testing.assert_allclose(ppo["gold"], [np.mean(values), *ends])
    np.testing.assert_allclose(ppo["kl_from_sft"][0], 3.0)
    assert sft["unknown"][0] == pytest.approx(0.1) and sft["entropy"] is None
    assert ppo["wins_vs_sft"] == pytest.approx(0.6) and ppo["name"] == "PPO"
    assert list(ppo["by_kind"]) == ["fact"] and ppo["by_kind"]["fact"]["prompts"] == 11
    assert together["reward_model"]["pairs"] == 101 and together["seeds"] == 3
    assert together["left_out"] == [{"what": "prompts", "count": 6}]
    assert together["seconds"] == {"ppo": 33.0} and together["peak_memory_gb"] == 3.0
    assert together["samples"][0]["prompt"] == "0"


def test_the_tables_say_it(together):
    first, *_ = results_tables(together)
    assert "95% interval over 3 seeds" in first.note
    assert result_charts(together) and "PPO and SFT cannot be told apart" not in run_verdict(
        together
    )


def test_a_band_is_drawn_where_there_are_seeds():
    chart = Chart("Loss", "nats", (Line("loss", "train", "#000000"),))
    rows = [{"step": step, "loss": 1.0 / step, "loss/ci95": 0.1} for step in range(1, 6)]
    alone = [{"step": row["step"], "loss": row["loss"]} for row in rows]
    with_band, without = (stage_charts(some, (chart,))["Loss"] for some in (rows, alone))
    assert "opacity: 0.2" in with_band and "opacity: 0.2" not in without


def test_a_sweep_reads_a_whole_run(together, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(together))
    found = values_of(tmp_path)
    assert found["gold"] == together["models"][-1]["gold"] and found["kl_from_sft"][0] == 3.0
    (tmp_path / "results.json").write_text(json.dumps(result(1)))
    assert values_of(tmp_path)["kl_from_sft"] == [3.0, None, None]
