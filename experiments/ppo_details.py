"""What each detail of PPO is worth: one at a time is changed, all else stays, eight seeds.

    python -m experiments.rlhf
    python -m experiments.ppo_details --run runs/rlhf/tiny
    python -m experiments.ppo_details --preset colab --run runs/rlhf/colab

The details are those of the two studies of what makes PPO work (Andrychowicz et al. 2021; Huang
et al. 2024, "The N+ Implementation Details of RLHF with PPO"), as far as they are settings here, or
can be put before the reward. The same seed has the same prompts with every detail, so that
differences are taken seed by seed, with Student's intervals.

Hardware and time: smoke, 2:43 on 2 CPU cores that much else was using. The tiny preset has not been
measured; from what an iteration takes (docs/seeds.md) it is about 35 minutes of processor time.
Expected: not known yet.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments import ppo
from gpt_jax.errors import UserError
from gpt_jax.evaluate.arms import Arm, path_of, run_arms
from gpt_jax.evaluate.yardstick import Measure, open_yardstick
from gpt_jax.generate.sampler import Rollout
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.report.details import publish_details
from gpt_jax.report.reproduction import compared
from gpt_jax.rl.rewards import DeviceReward
from gpt_jax.seeds import interval, refuse_many
from gpt_jax.train import command
from gpt_jax.train.origin import start_of
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.stage import Stage
from gpt_jax.train.sweep import with_settings

DEFAULT = "default"


class Detail(NamedTuple):
    """A change of one thing.

    Attributes:
      settings: {name within `ppo`: value}.
      scores: applied to the reward model's scores, if anything is.
    """

    settings: dict[str, Any] = {}
    scores: Callable[[jax.Array], jax.Array] | None = None


def uncentred(scores_B: jax.Array) -> jax.Array:
    """As of a reward model that nobody has calibrated."""
    return scores_B + 5.0


DETAILS = {
    DEFAULT: Detail(),
    "no KL penalty": Detail({"kl_coef": 0.0}),
    "adaptive KL (target 6)": Detail({"kl_controller": "adaptive"}),
    "no clip of the ratio": Detail({"clip": 1e6}),
    "no clip of the value": Detail({"value_clip": 1e6}),
    "value model from zero": Detail({"value_init": "zero"}),
    "lambda 1 (no GAE)": Detail({"lam": 1.0}),
    "gamma 0.95": Detail({"gamma": 0.95}),
    "no stop, no price": Detail({"missing_stop_score": None}),
    "Adam's eps 1e-8": Detail({"optimizer.eps": 1e-8}),
    "gradients not clipped": Detail({"optimizer.clip": None}),
    "scores of whole numbers": Detail(scores=jnp.trunc),
    "scores not centred (+5)": Detail(scores=uncentred),
}
SHOWN = ("gold", "reward", "kl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/ppo_details/tiny"
    run: str = "runs/rlhf/tiny"
    """A finished run of `experiments.rlhf`, whose SFT model and reward model are used."""
    ppo: ppo.PPO
    """The default."""
    measure: Measure = Measure()
    details: tuple[str, ...] = tuple(DETAILS)
    """Which are tried; the default always is."""

    def __post_init__(self):
        super().__post_init__()
        for name in self.details:
            if name not in DETAILS:
                known = ", ".join(repr(one) for one in DETAILS)
                raise UserError(f"there is no detail {name!r}; give some of {known}")

    def of(self, name: str) -> ppo.Config:
        """PPO with a detail changed."""
        where = f"{self.run_dir}/{''.join(c if c.isalnum() else '_' for c in name)}"
        config = ppo.Config(
            **command.shared(self, run_dir=where, sweep=()),
            init_from=f"{self.run}/sft",
            reward_from=f"{self.run}/reward",
            ppo=self.ppo,
        )
        return with_settings(config, {f"ppo.{k}": v for k, v in DETAILS[name].settings.items()})


def stage_of(name: str, config: ppo.Config, mesh: Mesh) -> Stage:
    """PPO's stage, its scores changed if that is the detail."""
    start, change = start_of(config), DETAILS[name].scores
    scoring = config.scoring(start)
    if change is not None:
        scoring = scoring._replace(reward=DeviceReward(changed(change, scoring.reward.score)))
    return ppo.prepare(config, start, scoring, mesh)


def changed(change: Callable, score: Callable) -> Callable[[Any, Rollout], jax.Array]:
    """A reward's function with something applied to what it gives."""
    return lambda params, rollout: change(score(params, rollout))


def main(config: Config) -> dict:
    """Runs PPO with every detail, and writes what each costs."""
    folder, mesh = Path(config.run_dir), make_mesh(config.mesh)
    config.data.check()
    refuse_many(config.run)
    compare_config(folder, "ppo_details", config)
    names = dict.fromkeys((DEFAULT, *config.details))
    arms = {n: Arm(n, "ppo", config.of(n), functools.partial(stage_of, n)) for n in names}
    start = f"{config.run}/sft", f"{config.run}/reward"
    yardstick = open_yardstick(*start, config.data, config.measure, mesh)
    begin = functools.partial(record_config, folder, "ppo_details", config)
    run_arms(list(arms.values()), yardstick, mesh, begin)
    ends = {name: path_of(arm)[-1] for name, arm in arms.items()}
    values = {n: {m: interval(end[m]) for m in end} for n, end in ends.items()}
    costs = {
        name: {m: interval(end[m] - ends[DEFAULT][m]) for m in SHOWN}
        for name, end in ends.items()
        if name != DEFAULT
    }
    said = [
        compared(name, "the default", cost[m], m) for m in SHOWN for name, cost in costs.items()
    ]
    results = {
        "experiment": "ppo_details",
        "preset": config.preset,
        "command": command.invocation("ppo_details"),
        "seeds": config.seeds,
        "values": values,
        "differences": costs,
        "said": said,
    }
    distributed.on_main(lambda: publish_details(folder, results, config.seeds))
    return results


def shortened(preset: str, steps: int, episodes: int) -> ppo.PPO:
    """PPO of that preset, of another length, which is measured four times."""
    recipe = ppo.presets[preset]().ppo
    every = {"evaluate_every": max(1, steps // 4), "checkpoint_every": max(1, steps // 2)}
    train = dataclasses.replace(recipe.train, steps=steps, **every)
    return dataclasses.replace(recipe, episodes=episodes, train=train)


presets = {
    "smoke": lambda: Config(
        preset="smoke",
        run_dir="runs/ppo_details/smoke",
        run="runs/rlhf/smoke",
        ppo=shortened("smoke", 2, 8),
        measure=Measure(prompts=16, max_new_tokens=16),
        details=("no KL penalty", "scores of whole numbers"),
    ),
    "tiny": lambda: Config(preset="tiny", seeds=8, ppo=shortened("tiny", 16, 48)),
    "colab": lambda: Config(
        preset="colab",
        run_dir="runs/ppo_details/colab",
        run="runs/rlhf/colab",
        seeds=8,
        ppo=shortened("colab", 100, 256),
        measure=Measure(prompts=560, answers=4, max_new_tokens=64),
    ),
}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
