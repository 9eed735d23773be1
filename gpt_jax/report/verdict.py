"""A run in one sentence, made from its numbers, and no kinder than they are."""

from collections.abc import Mapping

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
