"""The page, the tables and the plots say what the numbers say, whatever part of a run exists."""

import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from gpt_jax.errors import UserError
from gpt_jax.machine import in_words, machine
from gpt_jax.metrics import MetricWriter
from gpt_jax.report import markdown_table, plots, results_table, write_report, write_samples
from gpt_jax.report.stages import LANGUAGE_MODEL, RECIPE, language_model_verdict
from gpt_jax.report.verdict import run_verdict

NASTY = "</td><script>alert('1 < 2 & 3')</script>"


def _model(name, gold, wins=None, **more):
    return {"name": name, "gold": gold, "win_rate_vs_sft": wins, "kl_from_sft": None} | more


def _shares(right, unknown):
    shares = {"right": [right, right - 0.05, right + 0.05], "unknown": unknown}
    shares["wrong"] = 1 - right - unknown
    return shares | {"by_kind": {"fact": {"prompts": 1200, **shares}, "two_hop": SOME}}


SOME = {"prompts": 34, "right": [0.25, None, None], "unknown": 0.5, "wrong": 0.25}
RESULTS = {
    "experiment": "rlhf",
    "preset": "tiny",
    "seed": 3,
    "device": "cpu",
    "seconds": {"pretrain": 60.0, "ppo": 35.0, "evaluate": 30.0},
    "models": [
        _model("base", [-0.5, -0.6, -0.4], [0.1, 0.05, 0.15], length=40.0, **_shares(0.1, 0.0)),
        _model("SFT", [1.0, 0.9, 1.1], length=12.5, entropy=0.75, **_shares(0.5, 0.25)),
        _model("best-of-8", [1.5, 1.4, 1.6], [0.7, 0.6, 0.8], length=11.0, **_shares(0.6, 0.25)),
        _model(
            "PPO",
            [2.0, 1.9, 2.1],
            [0.8, 0.7, 0.9],
            length=10.0,
            difference_vs_sft=[1.0, 0.85, 1.15],
            style_vs_sft=[0.25, 0.2, 0.3],
            substance_vs_sft=[0.75, 0.65, 0.85],
            right_difference_vs_sft=[0.2, 0.12, 0.28],
            wins_vs_sft=0.75,
            ties_vs_sft=0.1,
            losses_vs_sft=0.15,
            **_shares(0.7, 0.125),
        ),
    ],
    "reward_model": {
        "accuracy": [0.9, 0.88, 0.92],
        "pairs": 929,
        "longer_answer_baseline": 0.5,
        "bag_of_words_baseline": None,
        "own_samples": {
            "SFT": {
                "accuracy": [0.8, 0.75, 0.85],
                "pairs": 3000,
                "right_over_wrong": [0.7, 0.62, 0.78],
                "right_over_wrong_pairs": 410,
            },
            "PPO": {
                "accuracy": [0.6, 0.55, 0.65],
                "pairs": 1500,
                "right_over_wrong": None,
                "right_over_wrong_pairs": 0,
            },
        },
    },
    "peak_memory_gb": 1.25,
    "machine": machine(),
    "samples": [
        {"prompt": f"Who? {NASTY}", "answers": {"base": NASTY, "SFT": "Ada & Bo", "PPO": ""}}
    ],
}


def _write_stages(folder):
    with MetricWriter(folder / "pretrain") as writer:
        for step in range(1, 1001):
            writer.write(step, {"loss": 5 - step / 500, "lr": 1e-3})
        writer.write(1000, {"eval/loss": 3.25})
    with MetricWriter(folder / "reward") as writer:
        for step in range(1, 20):
            writer.write(step, {"loss": 0.6, "accuracy": 0.5 + step / 50, "margin": 0.1 * step})
    with MetricWriter(folder / "ppo") as writer:
        for step in range(1, 4):
            values = {"objective/scores": 1.0 * step, "objective/kl": 0.5 * step}
            writer.write(step, values | {"objective/entropy": 9.0, "policy/clipfrac_avg": math.nan})


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "<demo>"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "config.json").write_text(json.dumps({"name": NASTY}))
    _write_stages(folder)
    return folder


class _Page(HTMLParser):
    """Collects what is in a page, and checks that the elements nest."""

    VOID = {"meta", "br", "hr", "img"}

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def _read(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    page = _Page(text)
    return text, page, " ".join(" ".join(page.words).split())


def test_the_page_shows_every_part(run):
    _, page, words = _read(run)
    assert "PPO answers better than SFT: gold score 2.00 against 1.00" in words
    assert "2.00 [1.90, 2.10]" in words and "80% [70, 90]" in words
    assert "preset tiny \N{MIDDLE DOT} seed 3 \N{MIDDLE DOT} device cpu" in words
    assert "2:05 in all" in words and "Evaluation 0:30 24%" in words
    assert f"Peak memory 1.25 GB; {in_words(machine())}." in words
    assert "fact 1,200 10 / 0 / 90 50 / 25 / 25 70 / 12 / 18" in words
    assert "of it style 0.25 [0.20, 0.30]" in words
    assert "answers of SFT 80.0% [75.0, 85.0] 3,000" in words
    assert "a right one over a wrong one 70.0% [62.0, 78.0] 410" in words
    assert "929 held-out comparisons" in words
    assert "python -m experiments.rlhf --preset tiny --seed 3 --run-dir" in words
    labels = [attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg"]
    # gold, reward model; pretraining 1; reward 3; PPO: reward, KL, entropy, clip fraction
    assert len(labels) == 2 + 1 + 3 + 4


def test_text_of_the_run_is_escaped(run):
    """Break it: drop an `escape(` in report/page.py."""
    text, page, words = _read(run)
    assert "script" not in [tag for tag, _ in page.tags]
    assert NASTY in words and "Ada & Bo" in words
    assert "<demo>" not in text


def test_the_page_fetches_nothing(run):
    text, page, _ = _read(run)
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert len(text) < 500_000


def test_what_is_missing_leaves_a_note(run):
    (run / "results.json").unlink()
    (run / "config.json").unlink()
    _, _, words = _read(run)
    for note in (
        "Not evaluated yet",
        "this stage has not begun",
        "No samples yet",
        "config.json is not there",
    ):
        assert note in words
    assert "Held-out loss 3.250 nats per token after 1,000 steps." in words


def test_an_empty_folder_still_has_a_page(tmp_path):
    assert _read(tmp_path)[2].count("No metrics yet: this stage has not begun.") == len(RECIPE)


@pytest.mark.parametrize(
    "stage, sentence",
    [
        ("pretrain", "Held-out loss 3.250 nats per token after 1,000 steps"),
        ("reward", "of the training pairs ranked right after 19 steps"),
        ("ppo", "Mean score 3.00 after 3 steps, from 1.00, at a KL of 1.50 nats"),
    ],
)
def test_one_stage_has_a_page_of_its_own(run, stage, sentence):
    assert sentence in _read(run / stage)[2]


@pytest.mark.parametrize("text", ['{"models": [', "[]", "\x00"])
def test_bad_folders_are_named(run, tmp_path, text):
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "absent")
    (run / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        write_report(run)


def _changed(**ppo):
    models = [model | (ppo if model["name"] == "PPO" else {}) for model in RESULTS["models"]]
    return RESULTS | {"models": models}


@pytest.mark.parametrize(
    "difference, verdict",
    [
        ([0.0275, 0.0264, 0.0285], "PPO answers better than SFT"),
        ([0.03, -0.01, 0.07], "PPO and SFT cannot be told apart"),
        ([0.0, 0.0, 0.0], "PPO and SFT cannot be told apart"),
        ([-0.5, -0.6, -0.4], "PPO answers worse than SFT"),
    ],
)
@pytest.mark.parametrize("gold", [[1.03, 0.93, 1.13], [2.0, 1.9, 2.1]])
def test_the_verdict_follows_the_paired_difference(difference, verdict, gold):
    """Whether the intervals of the two means overlap is another question.

    Break it: compare PPO's low end with SFT's high end.
    """
    sentence = run_verdict(_changed(gold=gold, difference_vs_sft=difference))
    assert sentence.startswith(verdict)
    if difference[0] == 0.0275:
        assert "a difference of 0.0275 [0.0264, 0.0285] prompt by prompt" in sentence


@pytest.mark.parametrize("difference", [None, [0.5, None, None]])
def test_without_an_interval_of_the_difference_nothing_is_claimed(difference):
    sentence = run_verdict(_changed(difference_vs_sft=difference))
    assert sentence.startswith(
        "PPO and SFT were evaluated, without an interval of their difference"
    )
    assert not re.search("better|worse|apart", sentence)


def test_ties_are_shown_apart_from_wins():
    assert "it wins 75% of the head-to-head comparisons and ties 10%." in run_verdict(RESULTS)
    table = markdown_table(RESULTS)
    assert "| wins | 75% |\n| ties | 10% |\n| losses | 15% |\n" in table
    assert "| **80% [70, 90]** |" in table


def test_an_interval_that_is_not_known_is_left_out(run):
    """All prompts about one thing: there is a mean and no interval."""
    models = [m | {"gold": [m["gold"][0], None, None]} for m in RESULTS["models"]]
    models[3] |= {
        f"{name}_vs_sft": [mean, None, None]
        for name, mean in (("difference", 1.0), ("win_rate", 0.8), ("right_difference", 0.2))
    }
    reward_model = RESULTS["reward_model"] | {"accuracy": [0.9, None, None]}
    results = RESULTS | {"models": models, "reward_model": reward_model}
    (run / "results.json").write_text(json.dumps(results))
    assert "None" not in _read(run)[2]
    table = markdown_table(results)
    assert "| **2.00** | **80%** |" in table and "| gold score | 1.00 |" in table
    assert "| right answers (points) | 20.0 |" in table


def test_what_was_left_out_is_counted_on_the_page(run):
    assert "What was left out" not in _read(run)[2]
    counts = [
        {"what": f"prompts cut {NASTY}", "count": 1234},
        {"what": "rows of no kind", "count": 0},
    ]
    (run / "sft" / "data.json").parent.mkdir()
    (run / "sft" / "data.json").write_text(json.dumps({"left_out": counts}))
    left_out = [{"what": "broken rows", "count": 3}]
    (run / "results.json").write_text(json.dumps(RESULTS | {"left_out": left_out}))
    words = _read(run)[2]
    assert f"prompts cut {NASTY} Supervised finetuning 1,234" in words
    assert (
        "broken rows Evaluation 3" in words
        and "nothing" not in words.split("What was left out")[1][:200]
    )
    (run / "ppo" / "data.json").write_text(json.dumps({"left_out": counts[:1]}))
    assert "PPO 1,234" in _read(run)[2] and "prompts cut" in _read(run / "ppo")[2]


def test_without_gold_the_reward_is_shown_and_said_to_be_a_poor_judge():
    models = [{"name": m["name"], "gold": None, "reward": m["gold"]} for m in RESULTS["models"]]
    results = RESULTS | {"models": models}
    assert "reward score 2.00 against 1.00" in run_verdict(results)
    assert "no proof of quality" in run_verdict(results)
    assert markdown_table(results).splitlines()[0] == "| model | reward |"
    assert "By kind" not in markdown_table(results) and "Unknown:" not in markdown_table(results)
    assert list(plots.result_charts(results))[0] == "Reward score"


def test_a_verdict_on_part_of_a_run():
    assert run_verdict({"models": RESULTS["models"][:2]}) == "Evaluated so far: base, SFT."


def test_the_markdown_table():
    lines = markdown_table(RESULTS).splitlines()
    assert lines[0] == (
        "| model | gold score | win rate | right | unknown | wrong | tokens | entropy |"
    )
    dash = "\N{EN DASH}"
    assert lines[3] == (
        f"| SFT | 1.00 [0.90, 1.10] | {dash} | 50% [45, 55] | 25% | 25% | 12.5 | 0.75 |"
    )
    assert lines[5] == (
        "| PPO | **2.00 [1.90, 2.10]** | **80% [70, 90]** | **70% [65, 75]** | 12% | 18% | 10.0 "
        f"| {dash} |"
    )


def test_the_tables_behind_the_scores():
    text = markdown_table(RESULTS)
    for row in (
        "| difference from SFT | PPO |",
        "| gold score | 1.00 [0.85, 1.15] |",
        "| of it style | 0.25 [0.20, 0.30] |",
        "| of it substance | 0.75 [0.65, 0.85] |",
        "| right answers (points) | 20.0 [12.0, 28.0] |",
        "| question | prompts | base | SFT | PPO |",
        "| fact | 1,200 | 10 / 0 / 90 | 50 / 25 / 25 | **70 / 12 / 18** |",
        "| two hop | 34 | 25 / 50 / 25 | 25 / 50 / 25 | 25 / 50 / 25 |",
        "| held-out comparisons | 90.0% [88.0, 92.0] | 929 |",
        "| answers of PPO | 60.0% [55.0, 65.0] | 1,500 |",
    ):
        assert row in text
    assert text.count("a right one over a wrong one") == 1  # of PPO there is no such pair
    assert "bag of words" not in text


@pytest.mark.parametrize(
    "difference, said",
    [
        (
            [0.2, 0.1, 0.3],
            "right answers rise from 50% to 70% (difference 20.0 points [10.0, 30.0])",
        ),
        ([-0.2, -0.3, -0.1], "right answers fall from 50% to 70% (difference -20.0 points"),
        ([0.0, -0.1, 0.1], "whether right answers rise or fall cannot be told (50%, 70%; diff"),
        ([0.2, None, None], None),
        (None, None),
    ],
)
def test_the_verdict_says_whether_answers_are_right_more_often(difference, said):
    """By the interval of the paired difference. Break it: compare the two shares."""
    sentence = run_verdict(_changed(right_difference_vs_sft=difference))
    assert said in sentence if said else "right answers" not in sentence
    assert ", of which 0.25 is style and 0.75 substance" in sentence


def test_the_terminal_table_has_the_same_cells():
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(RESULTS))
    shown = console.file.getvalue()
    wide = {"tokens", "entropy", "40.0", "12.5", "11.0", "10.0", "0.75"}  # beyond 80 characters
    for line in markdown_table(RESULTS).splitlines():
        if line.startswith("| ") and "---" not in line:
            for cell in line.replace("*", "").strip("| ").split(" | "):
                assert cell in shown or cell in wide, cell


def test_samples_cannot_break_out_of_their_fence(tmp_path):
    answer = "```\n# not a heading\n```"
    path = write_samples(tmp_path, [{"prompt": "p", "answers": {"SFT": answer}}])
    assert path.name == "samples.md"
    assert f"````text\n{answer}\n````" in path.read_text()


def test_plots_are_small_valid_and_the_same_every_time():
    rng = np.random.default_rng(0)
    rows = [{"step": i, "loss": 2 + rng.normal()} for i in range(1, 50_001)]
    svg = plots.stage_charts(rows, LANGUAGE_MODEL)["Loss"]
    assert svg == plots.stage_charts(rows, LANGUAGE_MODEL)["Loss"]
    assert len(svg) < 60_000
    ElementTree.fromstring(svg)
    assert "loss (nats per token)" in svg and ">step<" in svg
    assert "currentColor" in svg and "<metadata" not in svg and "DejaVu" not in svg


def test_a_label_keeps_its_digits():
    """Coordinates are rounded to keep the file small; what is written in a chart is not."""
    svg = plots.reward_model_accuracy(RESULTS["reward_model"] | {"accuracy": [0.8875, 0.87, 0.9]})
    assert ">0.887<" in svg or ">0.888<" in svg
    assert ">0.500<" in svg and "bag of words" not in svg


def test_smoothing_keeps_lines_straight_and_noise_small():
    line = np.linspace(3.0, -1.0, 200)
    np.testing.assert_allclose(plots.smooth(line), line, atol=1e-12)
    noise = np.random.default_rng(0).normal(size=1000)
    assert plots.smooth(noise)[100:-100].std() < 0.2
    np.testing.assert_allclose(plots.smooth(np.array([2.0])), [2.0])


def test_a_constant_is_drawn_as_one():
    """A float32 average of equal numbers wobbles in the last digit; the axis must not show it."""
    rows = [{"step": i, "loss": 0.05 * (1 + 1e-7 * (i % 3))} for i in range(90)]
    labels = re.findall(r">([0-9.]+)</text>", plots.stage_charts(rows, LANGUAGE_MODEL)["Loss"])
    assert all(len(label) <= 6 for label in labels) and "0.050" in labels


def test_a_diverged_run_is_still_drawn():
    rows = [{"step": i, "loss": value} for i, value in enumerate([3.0, math.nan, math.inf, 2.0])]
    assert plots.stage_charts(rows, LANGUAGE_MODEL)["Loss"].startswith("<svg")
    assert "nan" in language_model_verdict(rows + [{"step": 5, "loss": math.nan}])
