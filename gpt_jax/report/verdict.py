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
        first, last = _ends(rows, "objective/scores")
        kl = _ends(rows, "objective/kl")[1]
        return f"Mean score {last:.2f} {steps}, from {first:.2f}, at a KL of {kl:.2f} nats."
    if "accuracy" in names:
        where, name = _held_out(names, "accuracy")
        return f"{100 * _ends(rows, name)[1]:.1f}% of the {where} pairs ranked right {steps}."
    if "loss" in names:
        where, name = _held_out(names, "loss")
        first, last = _ends(rows, name)
        return f"{where.capitalize()} loss {last:.3f} nats per token {steps}, from {first:.3f}."
    return f"Metrics of {rows[-1]['step']:,} steps."


def _held_out(names: set[str], name: str) -> tuple[str, str]:
    return ("held-out", f"eval/{name}") if f"eval/{name}" in names else ("training", name)


def _ends(rows: Sequence[Mapping[str, float]], name: str) -> tuple[float, float]:
    """The first value and the last; a training value is noisy, so the last 5% are averaged."""
    values = np.array([row[name] for row in rows if name in row])
    last = 1 if name.startswith("eval/") else math.ceil(0.05 * len(values))
    return values[0], values[-last:].mean()
