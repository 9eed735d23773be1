"""A run in one sentence, made from its numbers, and no kinder than they are."""

from collections.abc import Mapping

from gpt_jax.report.table import digits_of, interval_text, number_text, score_name


def run_verdict(results: Mapping) -> str:
    """What the stages came to: is PPO better than SFT, by how much, and is it right more often.

    One is called better, or more often right, only if the interval of the paired difference
    excludes 0. Where there is no such interval, nothing is claimed: the intervals of the two means
    do not answer that.
    """
    models = {model["name"]: model for model in results.get("models", [])}
    if not models:
        return "Not evaluated yet: the run is still going, or was cut short."
    score = score_name(results["models"])
    if not {"SFT", "PPO"} <= models.keys() or not all(models[n].get(score) for n in ("SFT", "PPO")):
        return f"Evaluated so far: {', '.join(models)}."
    last = [name for name in models if name.startswith("PPO")][-1]  # of several rounds
    ppo, sft = models[last], models["SFT"]
    difference = ppo.get("difference_vs_sft")
    sentence = (
        f"{_claim(difference)}: {score} score {ppo[score][0]:.2f} against {sft[score][0]:.2f}"
    )
    base = models.get("base", {}).get(score)
    if base:
        sentence += f" (base model: {base[0]:.2f})"
    if difference:
        sentence += f", a difference of {interval_text(difference)} prompt by prompt"
        sentence += _parts(ppo)
    sentence += _right(ppo, sft) + _wins(ppo)
    if score == "reward":
        sentence += ". The judge is the reward model itself, so this is no proof of quality"
    return sentence + "."


def _claim(difference: list[float | None] | None) -> str:
    if not difference or None in difference:
        return "PPO and SFT were evaluated, without an interval of their difference"
    _, low, high = difference
    if low > 0:
        return "PPO answers better than SFT"
    if high < 0:
        return "PPO answers worse than SFT"
    return "PPO and SFT cannot be told apart"


def _parts(ppo: Mapping) -> str:
    if not ppo.get("style_vs_sft"):
        return ""
    digits = digits_of(ppo["difference_vs_sft"])
    style, substance = (number_text(ppo[f"{n}_vs_sft"][0], digits) for n in ("style", "substance"))
    return f", of which {style} is style and {substance} substance"


def _right(ppo: Mapping, sft: Mapping) -> str:
    difference = ppo.get("right_difference_vs_sft")
    if not difference or None in difference:
        return ""
    _, low, high = difference
    before, after = (f"{100 * model['right'][0]:.0f}%" for model in (sft, ppo))
    points = f"difference {interval_text(difference, 100, 1, ' points')}"
    if low > 0:
        return f"; right answers rise from {before} to {after} ({points})"
    if high < 0:
        return f"; right answers fall from {before} to {after} ({points})"
    return f"; whether right answers rise or fall cannot be told ({before}, {after}; {points})"


def _wins(ppo: Mapping) -> str:
    """Wins and ties apart; results that know only the two together give the rate of both."""
    if ppo.get("wins_vs_sft") is not None:
        wins, ties = 100 * ppo["wins_vs_sft"], 100 * ppo["ties_vs_sft"]
        return f"; it wins {wins:.0f}% of the head-to-head comparisons and ties {ties:.0f}%"
    if ppo.get("win_rate_vs_sft"):
        rate = 100 * ppo["win_rate_vs_sft"][0]
        return f"; it wins {rate:.0f}% of the head-to-head comparisons, a tie being half a win"
    return ""
