"""A run in one sentence, made from its numbers, and no kinder than they are."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gpt_jax.report.table import score_name


def run_verdict(results: Mapping) -> str:
    """What the four stages came to: is PPO better than SFT, and by how much."""
    models = {model["name"]: model for model in results.get("models", [])}
    if not models:
        return "Not evaluated yet: the run is still going, or was cut short."
    score = score_name(results["models"])
    if not {"SFT", "PPO"} <= models.keys() or not all(models[n].get(score) for n in ("SFT", "PPO")):
        return f"Evaluated so far: {', '.join(models)}."
    ppo, sft = models["PPO"], models["SFT"]
    comparison = f"{score} score {ppo[score][0]:.2f} against {sft[score][0]:.2f}"
    base = models.get("base", {}).get(score)
    if base:
        comparison += f" (base model: {base[0]:.2f})"
    if ppo[score][1] > sft[score][2]:
        sentence = f"PPO answers better than SFT: {comparison}"
    elif ppo[score][2] < sft[score][1]:
        sentence = f"PPO answers worse than SFT: {comparison}"
    else:
        sentence = f"PPO and SFT cannot be told apart: {comparison}, and the intervals overlap"
    wins = ppo.get("win_rate_vs_sft")
    if wins:
        sentence += f"; it wins {100 * wins[0]:.0f}% of the head-to-head comparisons"
    if score == "reward":
        sentence += ". The judge is the reward model itself, so this is no proof of quality"
    return sentence + "."


def stage_verdict(rows: Sequence[Mapping[str, float]]) -> str:
    """What one stage's metrics say, from their first and last values."""
    if not rows:
        return "No metrics yet."
    steps = f"after {rows[-1]['step']:,} steps"
    names = set().union(*rows)
    if "objective/scores" in names:
        kl = _last(rows, "objective/kl")
        score = f"Mean score {_last(rows, 'objective/scores'):.2f} {steps}"
        return f"{score}{_from(rows, 'objective/scores', 2)}, at a KL of {kl:.2f} nats."
    if "accuracy" in names:
        where, name = _held_out(names, "accuracy")
        return f"{100 * _last(rows, name):.1f}% of the {where} pairs ranked right {steps}."
    if "loss" in names:
        where, name = _held_out(names, "loss")
        loss = f"{where.capitalize()} loss {_last(rows, name):.3f} nats per token {steps}"
        return f"{loss}{_from(rows, name, 3)}."
    return f"Metrics of {rows[-1]['step']:,} steps."


def _held_out(names: set[str], name: str) -> tuple[str, str]:
    return ("held-out", f"eval/{name}") if f"eval/{name}" in names else ("training", name)


def _values(rows: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows if name in row])


def _last(rows: Sequence[Mapping[str, float]], name: str) -> float:
    """The last value; a training value is noisy, so the last 5% are averaged."""
    values = _values(rows, name)
    return values[-1 if name.startswith("eval/") else -math.ceil(0.05 * len(values)) :].mean()


def _from(rows: Sequence[Mapping[str, float]], name: str, digits: int) -> str:
    values = _values(rows, name)
    return f", from {values[0]:.{digits}f}" if len(values) > 1 else ""
