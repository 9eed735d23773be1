"""The table of stages: what a report shows of each, as data. A new stage is one entry of `STAGES`.

The functions here see a stage's metrics only, as `read_metrics` gives them: one dictionary a row,
with the step and whatever was written at it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.report.style import BLUE, ORANGE
from gpt_jax.seeds import WIDTH

Rows = Sequence[Mapping[str, float]]


class Line(NamedTuple):
    """One line of a chart: the metric's name, what the legend calls it, and its colour."""

    metric: str
    label: str
    color: str
    dots: bool = False  # sparse measurements (evaluation): joined dots, not smoothed


class Chart(NamedTuple):
    """What to draw of a stage's metrics; lines without a value are left out."""

    title: str
    unit: str
    lines: tuple[Line, ...]


class StageView(NamedTuple):
    """What a report shows of a stage.

    Attributes:
      title: the heading.
      charts: what to draw, if anything; a chart without a value is left out.
      verdict: a sentence made from the metrics, which have at least one value of the charts.
    """

    title: str
    charts: tuple[Chart, ...]
    verdict: Callable[[Rows], str]


LANGUAGE_MODEL = (
    Chart(
        "Loss",
        "loss (nats per token)",
        (Line("loss", "train", BLUE), Line("eval/loss", "held out", ORANGE, dots=True)),
    ),
    Chart(
        "Objective",
        "what is minimised (nats per token)",
        (Line("objective", "train", BLUE), Line("eval/objective", "held out", ORANGE, dots=True)),
    ),
)
REWARD_MODEL = (
    Chart("Loss", "loss (nats per comparison)", (Line("loss", "train", BLUE),)),
    Chart(
        "Accuracy",
        "pairs ranked right (fraction)",
        (Line("accuracy", "train", BLUE), Line("eval/accuracy", "held out", ORANGE, dots=True)),
    ),
    Chart("Margin", "score of chosen \N{MINUS SIGN} rejected", (Line("margin", "margin", BLUE),)),
)
PPO = (
    Chart(
        "Reward",
        "score per answer",
        (
            Line("objective/scores", "reward model", BLUE),
            Line("objective/rlhf_reward", "with KL penalty", ORANGE),
        ),
    ),
    Chart("KL from SFT", "KL (nats per answer)", (Line("objective/kl", "KL", BLUE),)),
    Chart("Entropy", "entropy (nats per answer)", (Line("objective/entropy", "entropy", BLUE),)),
    Chart(
        "Clip fraction",
        "clipped (fraction of tokens)",
        (
            Line("policy/clipfrac_avg", "policy", BLUE),
            Line("val/clipfrac_avg", "value", ORANGE),
        ),
    ),
    Chart("Value loss", "squared error of the value", (Line("loss/value_avg", "value", BLUE),)),
    Chart("KL coefficient", "beta", (Line("objective/kl_coef", "beta", BLUE),)),
)
REWARD_WEIGHTED = (
    Chart("Reward", "score per answer", (Line("objective/scores", "reward", BLUE),)),
    *PPO[1:3],
    Chart("Loss", "loss (nats per token)", (Line("loss", "weighed by the scores", BLUE),)),
)
_ACCURACY = (Line("eval/accuracy", "held out", ORANGE, dots=True),)
# Methods without a value model; a chart without a value is left out.
POLICY_ALONE = (
    *PPO[:3],
    Chart(
        "Kept",
        "score per answer",
        (
            Line("objective/kept_scores", "those learned from", BLUE),
            Line("objective/scores", "all", ORANGE),
        ),
    ),
    Chart("Loss", "loss (nats)", (Line("loss", "train", BLUE),)),
    Chart("Accuracy", "held-out answers that are right (fraction)", _ACCURACY),
    Chart("Clip fraction", "clipped (fraction)", (Line("policy/clipfrac_avg", "policy", BLUE),)),
    Chart("Equal groups", "groups of equal scores", (Line("val/zero_std_groups", "groups", BLUE),)),
)
PREFERENCE = (
    Chart(
        "Loss",
        "loss (of a prompt's pairs)",
        (Line("loss", "train", BLUE), Line("eval/loss", "held out", ORANGE, dots=True)),
    ),
    Chart(
        "Accuracy",
        "pairs ranked right (fraction)",
        (
            Line("rewards/accuracies", "train", BLUE),
            Line("eval/rewards/accuracies", "held out", ORANGE, dots=True),
        ),
    ),
    Chart(
        "Implicit reward",
        "reward",
        (Line("rewards/chosen", "chosen", BLUE), Line("rewards/rejected", "rejected", ORANGE)),
    ),
    Chart(
        "Log-likelihood",
        "log p of an answer (nats)",
        (Line("logps/chosen", "chosen", BLUE), Line("logps/rejected", "rejected", ORANGE)),
    ),
)
KTO = (
    Chart(
        "Loss",
        "loss (of an answer)",
        (Line("loss", "train", BLUE), Line("eval/loss", "held out", ORANGE, dots=True)),
    ),
    *PREFERENCE[2:],
    Chart("Distance", "estimate of the KL (nats)", (Line("kl", "train", BLUE),)),
)
DISTILLATION = (
    Chart(
        "Loss",
        "divergence (nats per token)",
        (Line("loss", "train", BLUE), Line("eval/loss", "held out", ORANGE, dots=True)),
    ),
    Chart(
        "Both directions, held out",
        "KL (nats per token)",
        (
            Line("eval/forward_kl", "teacher || student", BLUE, dots=True),
            Line("eval/reverse_kl", "student || teacher", ORANGE, dots=True),
        ),
    ),
)


CLASSES = (
    Chart(
        "Accuracy",
        "texts classified right (fraction)",
        (
            Line("accuracy", "train", BLUE),
            Line("eval/accuracy", "held out", ORANGE, dots=True),
        ),
    ),
    Chart(
        "Loss",
        "loss (nats per text)",
        (Line("loss", "train", BLUE), Line("eval/loss", "held out", ORANGE, dots=True)),
    ),
    Chart(
        "Language modelling beside",
        "loss (nats per token)",
        (Line("language_loss", "train", BLUE),),
    ),
)


def classes_verdict(rows: Rows) -> str:
    """How many texts are classified right, held out if it was measured."""
    where, name = _held_out(rows, "accuracy")
    right = _said(rows, name, ".1f", scale=100)
    return f"{right}% of the {where} texts classified right {_after(rows)}."


def language_model_verdict(rows: Rows) -> str:
    """The loss that a language model came to, held out if it was measured."""
    where, name = _held_out(rows, "loss")
    loss = f"{where.capitalize()} loss {_said(rows, name, '.3f')} nats per token {_after(rows)}"
    return f"{loss}{_from(rows, name, 3)}."


def reward_model_verdict(rows: Rows) -> str:
    """How many pairs a reward model ranks right, held out if it was measured."""
    where, name = _held_out(rows, "accuracy")
    right = _said(rows, name, ".1f", scale=100)
    return f"{right}% of the {where} pairs ranked right {_after(rows)}."


def preference_verdict(rows: Rows) -> str:
    """How many pairs the policy's likelihoods rank right, held out if it was measured."""
    where, name = _held_out(rows, "rewards/accuracies")
    return f"{100 * _last(rows, name):.1f}% of the {where} pairs ranked right {_after(rows)}."


def kto_verdict(rows: Rows) -> str:
    """How far good answers are above bad ones in implicit reward."""
    (where, chosen), (_, rejected) = (
        _held_out(rows, f"rewards/{kind}") for kind in ("chosen", "rejected")
    )
    margin = _last(rows, chosen) - _last(rows, rejected)
    return f"Good {where} answers are {margin:.3f} above bad ones in reward {_after(rows)}."


def distillation_verdict(rows: Rows) -> str:
    """How far the student's predictions are from the teacher's, held out if it was measured."""
    where, name = _held_out(rows, "loss")
    loss = f"{where.capitalize()} divergence {_last(rows, name):.4f} nats per token {_after(rows)}"
    return f"{loss}{_from(rows, name, 4)}."


def ppo_verdict(rows: Rows) -> str:
    """The score that the policy came to, and how far it went for it."""
    score = f"Mean score {_said(rows, 'objective/scores', '.2f')} {_after(rows)}"
    kl = _said(rows, "objective/kl", ".2f")
    sentence = f"{score}{_from(rows, 'objective/scores', 2)}, at a KL of {kl} nats."
    dropped = int(_values(rows, "val/dropped_rows").sum())
    if dropped:
        sentence += f" {dropped:,} answers of these had no score and were left out."
    return sentence


def label_verdict(rows: Rows) -> str:
    """How much was ranked, what of it teaches nothing, and how often two labelers agree."""
    last = {"pairs": 0, "agree": None, **rows[-1]}
    if not last["pairs"]:
        return f"Answers to {last['step']:,} prompts so far."
    idle = {
        "whose answers are all the same": last["all_equal"],
        "whose answers are all equally good": last["all_tied"],
        "not labeled": last["unlabeled"],
    }
    sentence = (
        f"{last['answers']:,.0f} answers to {last['prompts']:,.0f} prompts: {last['pairs']:,.0f} "
        f"pairs with a better one, {last['ties']:,.0f} ties"
    )
    sentence += "".join(f"; {n:,.0f} prompts {what}" for what, n in idle.items() if n)
    if last["agree"] is None:
        return f"{sentence}."
    twice = f"{last['ranked_twice']:,.0f} pairs that both have ranked"
    return f"{sentence}. Two labelers agree on {100 * last['agree']:.1f}% of {twice}."


STAGES = {
    "pretrain": StageView("Pretraining", LANGUAGE_MODEL, language_model_verdict),
    "sft": StageView("Supervised finetuning", LANGUAGE_MODEL, language_model_verdict),
    "label": StageView("Labels", (), label_verdict),
    "reward": StageView("Reward model", REWARD_MODEL, reward_model_verdict),
    "ppo": StageView("PPO", PPO, ppo_verdict),
    "grpo": StageView("GRPO", POLICY_ALONE, ppo_verdict),
    "rloo": StageView("RLOO", POLICY_ALONE, ppo_verdict),
    "reinforce": StageView("REINFORCE++", POLICY_ALONE, ppo_verdict),
    "rejection": StageView("Rejection sampling", POLICY_ALONE, ppo_verdict),
    "online_dpo": StageView("Online DPO", POLICY_ALONE, ppo_verdict),
    "reward_weighted": StageView("Reward-weighted finetuning", REWARD_WEIGHTED, ppo_verdict),
    "dpo": StageView("Preference optimization", PREFERENCE, preference_verdict),
    "kto": StageView("KTO", KTO, kto_verdict),
    "distill": StageView("Distillation", DISTILLATION, distillation_verdict),
    "finetune_task": StageView("Finetuning on a task", CLASSES, classes_verdict),
    "ladder": StageView("Lessons in prompting", LANGUAGE_MODEL, language_model_verdict),
}
RECIPE = ("pretrain", "sft", "label", "reward", "ppo")  # the stages of a whole run


def kind_of(name: str) -> str:
    """What a stage of a run does: "ppo" for "ppo2", which is that of the second round."""
    return name.rstrip("0123456789")


def view_of_stage(name: str) -> StageView:
    """How to show a stage of a run; its round is in the title."""
    kind = kind_of(name)
    view, number = STAGES[kind], name.removeprefix(kind)
    return view._replace(title=f"{view.title}, round {number}") if number else view


def stages_of(config: Mapping) -> list[str]:
    """The stages that a whole run has by its config.json, in their order."""
    names = [name for name in RECIPE if name in config] or list(RECIPE)
    if config.get("data", {}).get("comparisons"):
        names = [name for name in names if name != "label"]  # they are ready-made
    later = range(2, config.get("rounds", 1) + 1)
    repeated = [name for name in names if name in ("label", "reward", "ppo")]
    return names + [f"{name}{number}" for number in later for name in repeated]


def view_of(name: str, config: Mapping, rows: Rows) -> StageView:
    """How to show a stage's folder.

    Args:
      name: the folder's name.
      config: its config.json, whose `stage` says which stage it is; {} where there is none.
      rows: its metrics. Where neither config nor name is known, the stage whose charts show most
        of them lends its charts and verdict, under the folder's own name.
    """
    for stage in (str(config.get("stage")), name):
        if stage in STAGES:
            return STAGES[stage]
    names = set().union(*rows)
    return max(STAGES.values(), key=lambda view: _shown(view, names))._replace(title=name)


def stage_verdict(view: StageView, rows: Rows) -> str:
    """The view's sentence on at least one row; only their number where none of its charts has any
    of them."""
    if not view.charts or _shown(view, set().union(*rows)):
        return view.verdict(rows)
    return f"Metrics of {rows[-1]['step']:,} steps."


def summary(view: StageView, rows: Rows) -> dict[str, list[float | None]]:
    """{metric: [mean, low, high]} of what the view draws, as it stands in the last rows.

    What is measured on held-out data comes first. low and high are None unless there are many
    seeds.
    """
    lines = [line.metric for chart in view.charts for line in chart.lines]
    found = {}
    for name in sorted(lines, key=lambda name: not name.startswith("eval/")):
        mean, width = (_last(rows, of) for of in (name, name + WIDTH))
        if math.isfinite(mean):
            known = math.isfinite(width)
            found[name] = [mean, mean - width, mean + width] if known else [mean, None, None]
    return found


def _shown(view: StageView, names: set[str]) -> int:
    return len({line.metric for chart in view.charts for line in chart.lines} & names)


def _held_out(rows: Rows, name: str) -> tuple[str, str]:
    measured = len(_values(rows, f"eval/{name}"))
    return ("held-out", f"eval/{name}") if measured else ("training", name)


def _values(rows: Rows, name: str) -> np.ndarray:
    return np.array([row[name] for row in rows if name in row])


def _last(rows: Rows, name: str) -> float:
    """The last value; a training value is noisy, so the last 5% are averaged."""
    values = _values(rows, name)
    if not len(values):
        return math.nan
    return values[-1 if name.startswith("eval/") else -math.ceil(0.05 * len(values)) :].mean()


def _said(rows: Rows, name: str, form: str, scale: float = 1.0) -> str:
    """The last value as text; of many seeds with half of its 95% interval."""
    value, width = (scale * _last(rows, n) for n in (name, name + WIDTH))
    return f"{value:{form}}" + (f" \N{PLUS-MINUS SIGN} {width:{form}}" if width == width else "")


def _after(rows: Rows) -> str:
    return f"after {rows[-1]['step']:,} steps"


def _from(rows: Rows, name: str, digits: int) -> str:
    values = _values(rows, name)
    return f", from {values[0]:.{digits}f}" if len(values) > 1 else ""
