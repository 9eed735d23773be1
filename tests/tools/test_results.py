"""Runs of several seeds become the README's tables, and runs that do not belong together none."""

import json

import pytest

from gpt_jax.errors import UserError
from gpt_jax.machine import in_words, machine
from tools import results as tool

CONFIG = {"stage": "rlhf", "preset": "tiny", "seed": 0, "sft": {"train": {"steps": 100}}}


def write(folder, seed, right=0.5, **changes):
    """A finished run whose PPO is right so often."""

    def model(name, share, **more):
        shares = {"right": [share, share - 0.05, share + 0.05], "unknown": 0.1, "wrong": 0.1}
        kinds = {"fact": {"prompts": 30, **shares}, "two_hop": {"prompts": 50, **shares}}
        return {"name": name, "gold": [share, share - 0.1, share + 0.1], "by_kind": kinds} | (
            shares | more
        )

    found = {
        "seed": seed,
        "command": f"python -m experiments.rlhf --seed {seed}",
        "seconds": {"pretrain": 200.0, "ppo": 100.0 + 60 * seed},
        "machine": machine(),
        "models": [
            model("base", 0.125),
            model("SFT", 0.25),
            model(
                "PPO",
                right,
                right_difference_vs_sft=[right - 0.25, 0.1, 0.4],
                win_rate_vs_sft=[0.75, 0.7, 0.8],
                kl_from_sft=2.0 + seed,
            ),
        ],
        "reward_model": {
            "own_samples": {
                "SFT": {"accuracy": [0.8, 0.75, 0.85], "right_over_wrong": [0.7, 0.6, 0.8]}
            }
        },
    }
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(found | changes))
    (folder / "config.json").write_text(json.dumps(CONFIG | {"seed": seed}))
    return folder


def test_seeds_become_rows_and_means(tmp_path, capsys):
    tool.main([write(tmp_path / str(seed), seed, 0.5 + 0.1 * seed) for seed in (0, 1)])
    text = capsys.readouterr().out
    for line in (
        "| PPO | **0.50 [0.40, 0.60]** | 75% [70, 80] | **50% [45, 55]** | 10% | 10% | 2.00 |",
        "| 0 | 0.125 [0.025, 0.225] | 0.250 [0.150, 0.350] | 0.500 [0.400, 0.600] | 25% [20, 30] "
        "| 50% [45, 55] | 25.0 [10.0, 40.0] | 75% [70, 80] | 2.00 | 70% [60, 80] | 80% [75, 85] "
        "| 5.0 |",
        "| mean | 0.125 | 0.250 | 0.550 | 25% | 55% | 30.0 | 75% | 2.50 | 70% | 80% | 5.5 |",
        "| two hop | 100 | 12% | 25% | 55% |",
        f"Made on {in_words(machine())}.",
        "    python -m experiments.rlhf --seed 1",
    ):
        assert line in text.splitlines(), line
    assert text.index("| two hop |") < text.index("| fact |")  # the most frequent one first


def test_one_run_has_no_mean_and_what_is_not_known_no_number(tmp_path):
    """A run without a gold score, verdicts, times, or a word of its machine."""
    models = [
        {"name": name, "gold": None, "reward": [0.5, None, None]} for name in ("base", "SFT", "PPO")
    ]
    folder = write(tmp_path / "0", 0, models=models, seconds={}, machine={}, reward_model={})
    text = tool.tables_of([tool.read_run(folder)])
    assert "| seed | reward: base | reward: SFT | reward: PPO |\n" in text
    assert "| 0 | 0.500 | 0.500 | 0.500 |\n" in text and "mean" not in text
    assert "Made on a machine that is not known." in text


def test_machines_that_differ_are_told_apart(tmp_path):
    other = machine() | {"processor": "another"}
    folders = [write(tmp_path / "0", 0), write(tmp_path / "1", 1, machine=other)]
    text = tool.tables_of([tool.read_run(folder) for folder in folders])
    assert f"Seed 0: made on {in_words(machine())}.\n" in text
    assert f"Seed 1: made on {in_words(other)}.\n" in text


def test_runs_that_are_not_finished_are_named(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        tool.main([])
    with pytest.raises(UserError, match=r"absent has no results\.json"):
        tool.read_run(tmp_path / "absent")
    folder = write(tmp_path / "0", 0)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        tool.read_run(folder)
    with pytest.raises(UserError, match=r"results\.json says nothing of base, SFT, PPO"):
        tool.read_run(write(tmp_path / "1", 1, models=[]))


def test_only_runs_of_one_configuration_go_together(tmp_path):
    """Break it: compare the presets' names."""
    first, second = write(tmp_path / "0", 0), write(tmp_path / "1", 1)
    changed = CONFIG | {"sft": {"train": {"steps": 7}}, "seed": 1, "mesh": {"data": 2}}
    (second / "config.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=r"\(sft\.train\.steps is 100 and 7\)"):
        tool.main([first, second])
    with pytest.raises(UserError, match="both have seed 0; give each seed once"):
        tool.main([first, first])
