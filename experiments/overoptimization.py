"""Gold against proxy score over the distance travelled: how far a reward model can be climbed.

    python -m experiments.rlhf
    python -m experiments.judge_generator     # its 32x2 and 64x3 are reward models of other sizes
    python -m experiments.overoptimization --run runs/rlhf/tiny --sizes-from runs/sizes/tiny/seed0
    python -m experiments.overoptimization --run runs/rlhf/tiny --sizes   # without these

The SFT model of a finished run is optimised against reward models of several sizes, and of its own
size on parts of the labels, by best-of-n and by PPO without a price of the KL. What is fitted to
the gains in gold score over d, the square root of the KL, are the two forms of Gao et al. 2023:
d (a - b d) and d (a - b log d). The KL of best-of-n is estimated beside log n - (n-1)/n.

Hardware and time: smoke, 1:20 on 2 CPU cores that much else was using. The tiny preset has not been
measured.
Expected: not known yet, but for best-of-n and PPO against the run's own reward model, five seeds of
which are in docs/results/frontier.md.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments import ppo, reward
from experiments.ppo_details import shortened
from gpt_jax import files
from gpt_jax.data.config import DataConfig
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.evaluate import answers
from gpt_jax.evaluate.arms import Arm, path_of, run_arms
from gpt_jax.evaluate.best_of import expected_best
from gpt_jax.evaluate.overoptimization import Fit, best_of_kl, fit
from gpt_jax.evaluate.yardstick import Measure, Yardstick, open_yardstick
from gpt_jax.models.contract import param_shapes
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.report.frontier import Point, publish_frontier
from gpt_jax.seeds import interval, refuse_many
from gpt_jax.train import command
from gpt_jax.train.inputs import label_files
from gpt_jax.train.launch import look_at
from gpt_jax.train.origin import load_model_files, start_of
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.stage import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/overoptimization/tiny"
    run: str = "runs/rlhf/tiny"
    """A finished run of `experiments.rlhf`, whose SFT model and labels are used, and whose reward
    model is the one of its own size on all labels."""
    sizes_from: str = "runs/sizes/tiny/seed0"
    """Where `experiments.judge_generator` has put its models, whose SFT models reward models of
    other sizes are made from."""
    sizes: tuple[str, ...] = ("32x2", "64x3")
    """Which of them."""
    labels: tuple[int, ...] = (256, 1024)
    """How many labeled prompts reward models of the policy's size have, beside that with all."""
    reward: reward.Reward
    ppo: ppo.PPO
    measure: Measure = Measure()
    best_of: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """The n of best-of-n."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.best_of) < 3 or min(self.best_of) < 2:
            raise UserError(f"best_of is {self.best_of}; give three n or more, each at least 2")
        if min(self.labels, default=1) < 1:
            raise UserError(f"labels is {self.labels}; give numbers of at least 1")

    def reward_models(self) -> dict[str, reward.Config | None]:
        """{name: its stage}; None for the run's own."""
        made: dict[str, reward.Config | None] = {"all labels": None}
        for count in self.labels:
            specs = {f"{name}comparisons": self.part(count, name) for name in ("", "test_")}
            data = dataclasses.replace(self.data, **specs)
            made[f"{count} labels"] = self.stage(f"labels_{count}", f"{self.run}/sft", data=data)
        for size in self.sizes:
            there, labels = f"{self.sizes_from}/{size}/sft", (f"{self.run}/label",)
            made[f"size {size}"] = self.stage(f"size_{size}", there, labels_from=labels)
        return made

    def stage(self, name: str, start: str, **more: Any) -> reward.Config:
        """A reward model's, which starts from there; always of the first seed."""
        given = command.shared(self, run_dir=f"{self.run_dir}/reward/{name}", seeds=1, sweep=())
        return reward.Config(**given | more, init_from=start, reward=self.reward)

    def part(self, count: int, name: str) -> str:
        """The file with so many of the labeled prompts (`""`), or with those held out (`test_`)."""
        return f"{self.run_dir}/labels/{count if name == '' else 'held_out'}.jsonl"

    def policy(self, name: str, scorer: str) -> ppo.Config:
        """PPO against a reward model."""
        return ppo.Config(
            **command.shared(
                self, run_dir=f"{self.run_dir}/ppo/{name.replace(' ', '_')}", sweep=()
            ),
            init_from=f"{self.run}/sft",
            reward_from=scorer,
            ppo=self.ppo,
        )


def main(config: Config) -> dict:
    """Trains the reward models, climbs each in both ways, and writes fits, table and figure."""
    folder, mesh = Path(config.run_dir), make_mesh(config.mesh)
    config.data.check()
    refuse_many(config.run)
    compare_config(folder, "overoptimization", config)
    check_sizes(config)
    first = dataclasses.replace(config.policy("all labels", f"{config.run}/reward"), seeds=1)
    look_at(policy_stage(first, mesh), config.seed, mesh)
    record_config(folder, "overoptimization", config)
    write_parts(config)
    points, fits = [], {}
    for name, stage in config.reward_models().items():
        if stage is not None:
            reward.main(stage)
        scorer = f"{config.run}/reward" if stage is None else stage.run_dir
        yardstick = open_yardstick(f"{config.run}/sft", scorer, config.data, config.measure, mesh)
        chosen, start = best_of_points(config, name, yardstick)
        arm = Arm(f"PPO, {name}", "ppo", config.policy(name, scorer), policy_stage)
        run_arms([arm], yardstick, mesh)
        climbed = [
            Point(
                f"PPO, {name}", f"step {at['step'][0]:.0f}", {k: interval(v) for k, v in at.items()}
            )
            for at in path_of(arm)
        ]
        points += [*chosen, *climbed]
        for way, some in (("best-of-n", chosen), ("rl", climbed)):
            gains = [point.values["gold"][0] - start for point in some]
            fits[f"{way}, {name}"] = fit(way, [p.values["kl"][0] for p in some], gains)
    said = [sentence(name, one) for name, one in fits.items()]
    results = {
        "experiment": "overoptimization",
        "preset": config.preset,
        "command": command.invocation("overoptimization"),
        "seeds": config.seeds,
        "fits": {name: one and one._asdict() for name, one in fits.items()},
        "points": [point._asdict() for point in points],
        "said": said,
    }
    title = f"Gold and proxy score over the distance, {config.seeds} seeds"
    distributed.on_main(lambda: publish_frontier(folder, results, points, said, title))
    return results


def check_sizes(config: Config) -> None:
    """Raises a UserError if the model of a size is not there, or has another tokenizer."""
    policy = load_model_files(f"{config.run}/sft", param_shapes)
    for size in config.sizes:
        there = f"{config.sizes_from}/{size}/sft"
        if load_model_files(there, param_shapes).tokenizer != policy.tokenizer:
            raise UserError(
                f"{there} has another tokenizer than {config.run}/sft, so that no reward model "
                "made from it can read the policy's tokens; leave the size out"
            )


def sentence(name: str, one: Fit | None) -> str:
    """A fit in words."""
    if one is None:
        return f"{name}: fewer than three points have moved, which nothing can be fitted to"
    top = "with no largest value" if one.peak is None else f"largest at d = {one.peak:.2f}"
    return f"{name}: a = {one.a:.3f}, b = {one.b:.3f}, R squared = {one.r_squared:.2f}, {top}"


def policy_stage(config: ppo.Config, mesh: Mesh) -> Stage:
    """PPO's stage."""
    start = start_of(config)
    return ppo.prepare(config, start, config.scoring(start), mesh)


def write_parts(config: Config) -> None:
    """Writes the parts of the labels, of which each holds the smaller ones."""
    train, test = map(str, label_files(f"{config.run}/label"))
    data = DataConfig(comparisons=train, test_comparisons=test)
    rows = data.read("comparisons", "train")
    parts = {config.part(n, ""): sample_rows(rows, n, config.seed) for n in config.labels}
    parts[config.part(0, "test_")] = data.read("comparisons", "test")
    if config.labels and max(config.labels) >= len(rows):
        raise UserError(f"{train} has {len(rows)} rows; give less --labels than that")
    for path, some in parts.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        distributed.on_main(functools.partial(files.write_text, path, text))


def best_of_points(config: Config, name: str, yardstick: Yardstick) -> tuple[list[Point], float]:
    """Best-of-n by a reward model, and the gold score of the SFT model.

    Its KL is log n - (n-1)/n; what is estimated stands beside it, as `estimated_kl`.
    """
    sampling = dataclasses.replace(yardstick.sampling, n=max(config.best_of), seed=config.seed)
    yardstick = yardstick._replace(sampling=sampling)
    found = yardstick.ask(yardstick.finetuned.params)
    scores = answers.score(yardstick.rollout(found), yardstick.reward, yardstick.finetuned.mesh)
    rewards_AN = np.asarray(scores).reshape(found.scores_AN.shape)
    logprobs_AN = np.array([[sum(c.logprobs) for c in group] for group in found.completions_AN])
    points = []
    for n in config.best_of:
        values = {"gold": found.scores_AN, "reward": rewards_AN}
        means = {key: float(expected_best(v, rewards_AN, n).mean()) for key, v in values.items()}
        means["kl"] = float(np.log(n) - (n - 1) / n)
        means["estimated_kl"] = best_of_kl(rewards_AN, logprobs_AN, n)
        alone = {key: [value, None, None] for key, value in means.items()}
        points.append(Point(f"best-of-n, {name}", f"n {n}", alone))
    return points, float(found.scores_AN.mean())


def recipe(preset: str, steps: int, episodes: int) -> ppo.PPO:
    """PPO with nothing that holds it back, measured ten times."""
    made = dataclasses.replace(shortened(preset, steps, episodes), kl_coef=0.0)
    train = dataclasses.replace(made.train, evaluate_every=max(1, steps // 10))
    return dataclasses.replace(made, train=train)


presets = {
    "smoke": lambda: Config(
        preset="smoke",
        run_dir="runs/overoptimization/smoke",
        run="runs/rlhf/smoke",
        sizes=(),
        labels=(32,),
        reward=reward.smoke().reward,
        ppo=recipe("smoke", 4, 8),
        measure=Measure(prompts=16, max_new_tokens=16),
        best_of=(2, 3, 4),
    ),
    "tiny": lambda: Config(
        preset="tiny", seeds=2, reward=reward.tiny().reward, ppo=recipe("tiny", 40, 48)
    ),
    "colab": lambda: Config(
        preset="colab",
        run_dir="runs/overoptimization/colab",
        run="runs/rlhf/colab",
        sizes_from="runs/sizes/colab/seed0",
        sizes=("64x3", "128x6"),
        seeds=3,
        reward=reward.colab().reward,
        ppo=recipe("colab", 300, 256),
        measure=Measure(prompts=560, answers=4, max_new_tokens=64),
        best_of=(2, 4, 8, 16, 32, 64, 128, 256),
    ),
}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
