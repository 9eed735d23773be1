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
from gpt_jax.metrics import MetricWriter
from gpt_jax.report import markdown_table, plots, results_table, write_report, write_samples
from gpt_jax.report.stages import LANGUAGE_MODEL, STAGES, language_model_verdict
from gpt_jax.report.verdict import run_verdict

NASTY = "</td><script>alert('1 < 2 & 3')</script>"


def _model(name, gold, wins=None, **more):
    return {"name": name, "gold": gold, "win_rate_vs_sft": wins, "kl_from_sft": None} | more


RESULTS = {
    "experiment": "rlhf",
    "preset": "tiny",
    "seed": 3,
    "device": "cpu",
    "seconds": {"pretrain": 60.0, "ppo": 65.0},
    "models": [
        _model("base", [-0.5, -0.6, -0.4], [0.1, 0.05, 0.15], length=40.0, correct=0.1),
        _model("SFT", [1.0, 0.9, 1.1], length=12.5, correct=0.5, entropy=0.75),
        _model("best-of-8", [1.5, 1.4, 1.6], [0.7, 0.6, 0.8], length=11.0, correct=0.6),
        _model(
            "PPO",
            [2.0, 1.9, 2.1],
            [0.8, 0.7, 0.9],
            length=10.0,
            correct=0.7,
            difference_vs_sft=[1.0, 0.85, 1.15],
        ),
    ],
    "reward_model": {
        "accuracy": [0.9, 0.88, 0.92],
        "pairs": 929,
        "longer_answer_baseline": 0.5,
        "bag_of_words_baseline": None,
    },
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
    assert "2:05 in all" in words
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
    assert _read(tmp_path)[2].count("No metrics yet: this stage has not begun.") == len(STAGES)


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
    results = _changed(wins_vs_sft=0.75, ties_vs_sft=0.1, losses_vs_sft=0.15)
    assert "it wins 75% of the head-to-head comparisons and ties 10%." in run_verdict(results)
    first, _, *rows = markdown_table(results).splitlines()
    assert "| win rate | ties |" in first and "| **80% [70, 90]** | 10% |" in rows[3]


def test_an_interval_that_is_not_known_is_left_out(run):
    """All prompts about one thing: there is a mean and no interval."""
    models = [m | {"gold": [m["gold"][0], None, None]} for m in RESULTS["models"]]
    models[3] |= {"difference_vs_sft": [1.0, None, None], "win_rate_vs_sft": [0.8, None, None]}
    reward_model = RESULTS["reward_model"] | {"accuracy": [0.9, None, None]}
    results = RESULTS | {"models": models, "reward_model": reward_model}
    (run / "results.json").write_text(json.dumps(results))
    assert "None" not in _read(run)[2]
    assert "| **2.00** | 1.00 | **80%** |" in markdown_table(results)


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
    assert list(plots.result_charts(results))[0] == "Reward score"


def test_a_verdict_on_part_of_a_run():
    assert run_verdict({"models": RESULTS["models"][:2]}) == "Evaluated so far: base, SFT."


def test_the_markdown_table():
    lines = markdown_table(RESULTS).splitlines()
    assert lines[0] == (
        "| model | gold score | difference from SFT | win rate | correct | tokens | entropy |"
    )
    dash = "\N{EN DASH}"
    assert lines[3] == f"| SFT | 1.00 [0.90, 1.10] | {dash} | {dash} | 50% | 12.5 | 0.75 |"
    assert lines[5] == (
        "| PPO | **2.00 [1.90, 2.10]** | 1.00 [0.85, 1.15] | **80% [70, 90]** | **70%** | 10.0 "
        "| \N{EN DASH} |"
    )


def test_the_terminal_table_has_the_same_cells():
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(RESULTS))
    shown = console.file.getvalue()
    for line in markdown_table(RESULTS).splitlines()[2:]:
        for cell in line.replace("*", "").strip("| ").split(" | "):
            assert cell in shown or cell == "1.00 [0.85, 1.15]"  # too wide for 80 characters


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
