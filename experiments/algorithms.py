"""What each method makes of one reward model at equal compute: gold score against KL.

    python -m experiments.rlhf
    python -m experiments.algorithms --run runs/rlhf/tiny
    python -m experiments.algorithms --preset colab --run runs/rlhf/colab

PPO, GRPO, RLOO, REINFORCE++, online DPO, rejection sampling, DPO and best-of-n start from the SFT
model of a finished run, and learn from its reward model (DPO from the labels that this learned
from). Each has several prices of the KL. Compute is counted in completions: 1 for one that is
sampled, 3 for one that is trained on (a forward and a backward pass), for PPO's value model, too;
scoring is not counted. Every method may spend the same (`--budget`), so that PPO has fewer
iterations than GRPO, and rejection sampling more.

Best-of-n is not trained: it samples n answers whenever it is asked.

Hardware and time: smoke, 1:49 of processor time on 2 CPU cores that much else was using. The tiny
preset has not been measured; from what an iteration takes (docs/seeds.md) it is about 30 minutes of
processor time.
Expected: not known yet. Of best-of-n and PPO docs/results/frontier.md has five seeds.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated

from experiments.methods import METHODS, batch, sampled, spent, stage_of, trained
from gpt_jax.errors import UserError
from gpt_jax.evaluate.arms import Arm, path_of, run_arms, sampled_tokens
from gpt_jax.evaluate.yardstick import Measure, Yardstick, open_yardstick
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.ranges import Positive, Range
from gpt_jax.report.frontier import Point, publish_frontier
from gpt_jax.report.reproduction import compared
from gpt_jax.seeds import interval, refuse_many
from gpt_jax.train import command
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.seeds_run import configs_of
from gpt_jax.train.sweep import with_settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/algorithms/tiny"
    run: str = "runs/rlhf/tiny"
    """A finished run of `experiments.rlhf`, whose SFT model, labels and reward model are used."""
    budget: Positive
    """What a method may spend: completions sampled, and three times those trained on."""
    episodes: Positive
    """Completions that one iteration samples, or one step of DPO learns from."""
    values: Annotated[int, Range(1, 3)] = 3
    """Of each method's prices of the KL so many, the default first."""
    measure: Measure = Measure()
    best_of: tuple[int, ...] = (2, 4, 8, 16)
    """The n of best-of-n."""

    def __post_init__(self):
        super().__post_init__()
        if not self.best_of or min(self.best_of) < 1:
            raise UserError(f"best_of is {self.best_of}; give one n or more, each at least 1")

    def of(self, name: str, value: float) -> command.Common:
        """The stage of a method, as its own preset of this name has it."""
        method, labels = METHODS[name], f"{self.run}/label"
        where = f"{self.run_dir}/{name}/{method.setting}={value:g}"
        given = command.shared(self, run_dir=where, sweep=(), init_from=f"{self.run}/sft")
        source = (
            {"labels_from": (labels,)} if name == "dpo" else {"reward_from": f"{self.run}/reward"}
        )
        config = dataclasses.replace(method.module.presets[self.preset](), **given, **source)
        value = int(value) if method.setting == "group" else value
        config = with_settings(
            config, {f"{name}.{method.setting}": value} | batch(name, config, self.episodes)
        )
        steps = max(1, round(self.budget / spent(name, config)))
        often = {"steps": steps, "evaluate_every": max(1, steps // 4), "log_every": 1}
        often |= {"checkpoint_every": max(1, steps // 2)}
        return with_settings(config, {f"{name}.train.{key}": n for key, n in often.items()})


def arms_of(config: Config) -> dict[tuple[str, float], Arm]:
    """{(method, value): arm}, the defaults first, so that what is killed has compared something."""
    values = [(name, v) for k in range(config.values) for name, v in at(k).items()]
    return {
        (name, value): Arm(
            f"{METHODS[name].title}, {METHODS[name].setting} {value:g}",
            name,
            config.of(name, value),
            functools.partial(stage_of, name),
        )
        for name, value in values
    }


def at(place: int) -> dict[str, float]:
    """{method: its value at a place}, 0 being the default."""
    return {name: method.values[place] for name, method in METHODS.items()}


def main(config: Config) -> dict:
    """Runs all methods, and writes the frontier: `results.json`, `results.md` and `figure.png`."""
    folder, mesh = Path(config.run_dir), make_mesh(config.mesh)
    config.data.check()
    refuse_many(config.run)
    compare_config(folder, "algorithms", config)
    arms = arms_of(config)
    start = f"{config.run}/sft", f"{config.run}/reward"
    yardstick = open_yardstick(*start, config.data, config.measure, mesh)
    begin = functools.partial(record_config, folder, "algorithms", config)
    run_arms(list(arms.values()), yardstick, mesh, begin)
    points = untrained(config, yardstick)
    points += [learned(*key, arm) for key, arm in arms.items()]
    ends = {name: path_of(arms[name, value])[-1] for name, value in at(0).items()}
    said = [
        compared(METHODS[name].title, "PPO", interval(end[of] - ends["ppo"][of]), of)
        for of in ("gold", "reward")
        for name, end in ends.items()
        if name != "ppo"
    ]
    results = {
        "experiment": "algorithms",
        "preset": config.preset,
        "command": command.invocation("algorithms"),
        "seeds": config.seeds,
        "budget": config.budget,
        "points": [point._asdict() for point in points],
        "said": said,
    }
    title = f"Gold and reward model's score against KL, {config.seeds} seeds"
    distributed.on_main(lambda: publish_frontier(folder, results, points, said, title))
    return results


def untrained(config: Config, yardstick: Yardstick) -> list[Point]:
    """The SFT model, and best-of-n of it."""
    draws = [yardstick.with_seed(config.seed + place) for place in range(config.seeds)]
    sft = [one.of(yardstick.finetuned.params) for one in draws]
    best = [one.best_of(max(config.best_of), config.best_of) for one in draws]
    found = {("SFT", ""): sft} | {
        ("best-of-n", f"n {n}"): [one[n] for one in best] for n in config.best_of
    }
    return [
        Point(*names, {key: interval([one[key] for one in some]) for key in some[0]})
        for names, some in found.items()
    ]


def learned(name: str, value: float, arm: Arm) -> Point:
    """What a method came to, and on which way."""
    path, method = path_of(arm), METHODS[name]
    train = getattr(arm.config, name).train.steps
    drawn = sampled_tokens(arm, sampled(name, arm.config))
    share = trained(name, arm.config) / max(1, sampled(name, arm.config))
    tokens = {"sampled": drawn, "trained": share * drawn}
    if name == "dpo":
        config = arm.config if arm.config.seeds == 1 else configs_of(arm.config)[0]
        batch_at = arm.prepare(config, make_mesh(config.mesh)).batch_at
        words = sum(float(batch_at(step).weights_BKT.sum()) for step in range(train))
        tokens = {"sampled": 0.0, "trained": words}
    return Point(
        method.title,
        f"{method.setting} {value:g}",
        {key: interval(values) for key, values in path[-1].items()},
        [{key: float(values.mean()) for key, values in at.items()} for at in path],
        tokens,
    )


presets = {
    "smoke": lambda: Config(
        preset="smoke",
        run_dir="runs/algorithms/smoke",
        run="runs/rlhf/smoke",
        budget=224,
        episodes=16,
        values=1,
        measure=Measure(prompts=16, max_new_tokens=16),
        best_of=(2, 4),
    ),
    "tiny": lambda: Config(preset="tiny", seeds=3, values=2, budget=48 * 7 * 40, episodes=48),
    "colab": lambda: Config(
        preset="colab",
        run_dir="runs/algorithms/colab",
        run="runs/rlhf/colab",
        seeds=5,
        budget=256 * 13 * 100,
        episodes=256,
        measure=Measure(prompts=560, answers=4, max_new_tokens=64),
        best_of=(2, 4, 8, 16, 32, 64),
    ),
}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
