"""Is judging easier than generating? One model as a writer of answers and as a judge of pairs.

    python -m experiments.judge_generator
    python -m experiments.judge_generator --sizes 96x4 --seeds 3
    python -m experiments.judge_generator --preset colab

"State of GPT" (Karpathy 2023) gives as a reason why RLHF works that it is easier to tell which of
two haikus is better than to write a good one. For every size a model is pretrained and finetuned;
then the same labels (its own answers, ranked by what is true) are spent twice: on a judge, the
reward model, and on the generator, which is finetuned on the best answer to each prompt (`taught`).
On held-out prompts, of the finetuned model's own answers:

- generator, taught: how many are right;
- judge: how many pairs of a right and a wrong answer to one prompt it ranks right (chance: half);
  beside it the finetuned model's own likelihood, a judge that has learned from no label;
- best-of-n: how many are right of those that each judge chooses from n.

Hardware and time: measuring a size, 15 s of processor time, on 2 CPU cores that much else was
using; making the default one takes 7 minutes of `experiments.rlhf`. All four sizes have not been
made yet.
Expected (96x4, five seeds, --no-taught): generator 74%, judge 87%, likelihood 83%; best-of-4 makes
88% right, best-of-16 89%, with a perfect judge 98% (docs/results/judge_generator.md).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from experiments import rlhf, sft, sizes
from gpt_jax import files
from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError
from gpt_jax.evaluate import answers
from gpt_jax.evaluate.judging import judging
from gpt_jax.evaluate.statistics import mean_interval
from gpt_jax.evaluate.yardstick import Measure, open_yardstick
from gpt_jax.models.presets import parameter_count
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.report.judging import publish_judging
from gpt_jax.seeds import interval
from gpt_jax.train import command
from gpt_jax.train.inputs import label_files
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.seeds_run import in_turn
from gpt_jax.train.served import open_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(rlhf.Config):
    run_dir: str = "runs/judge_generator/tiny"
    models: str = "runs/sizes/tiny"
    """Where the models lie, of every seed and size a whole run; `instructgpt` shares them."""
    sizes: tuple[str, ...] = ("32x2", "48x2", "64x3", "96x4")
    """WIDTHxLAYERS of the models."""
    measure: Measure = Measure(answers=16)
    best_of: tuple[int, ...] = (1, 2, 4, 8, 16)
    """The n of best-of-n."""
    taught: bool = True
    """Spend the labels on the generator, too, which takes another finetuning of every size."""

    def __post_init__(self):
        super().__post_init__()
        sizes.check(self, self.sizes, "judge_generator")
        if (
            not self.best_of
            or not 1 <= min(self.best_of) <= max(self.best_of) <= self.measure.answers
        ):
            raise UserError(
                f"best_of is {self.best_of}; give numbers from 1 to measure.answers, which is "
                f"{self.measure.answers}"
            )


def main(config: Config) -> dict:
    """Trains every size, measures it, and writes the table and the figure."""
    if config.seeds > 1:
        return together(config, in_turn("judge_generator", config, main))
    folder, mesh = Path(config.run_dir), make_mesh(config.mesh)
    config.data.check()
    compare_config(folder, "judge_generator", config)
    configs = {size: sizes.config_of(config, config.models, size) for size in config.sizes}
    record_config(folder, "judge_generator", config)
    found = {}
    for size, one in configs.items():
        sizes.train(one, mesh)
        if config.taught:
            sft.main(taught(one))
        found[size] = measure(config, one, mesh)
    return publish(config, found)


def taught(one: rlhf.Config) -> sft.Config:
    """The stage that spends the labels on the generator: as many answers are trained on as by the
    reward model, the best one to each prompt again and again."""
    stages, folder = rlhf.stage_configs(one), Path(one.run_dir) / "best"
    specs = {}
    for path, name in zip(label_files(stages["label"].run_dir), ("", "test_"), strict=True):
        data = DataConfig(comparisons=str(path), test_comparisons=str(path))
        rows = data.read("comparisons", "train")
        times = len(rows[0]["completions"]) if name == "" else 1
        lines = [json.dumps(row) + "\n" for row in map(best_of_row, rows) if row] * times
        specs[f"{name}demonstrations"] = str(folder / f"{name}demonstrations.jsonl")
        distributed.on_main(lambda p=specs[f"{name}demonstrations"], t=lines: write(p, t))
    recipe = one.sft
    train = dataclasses.replace(recipe.train, steps=0)
    optimizer = dataclasses.replace(
        recipe.optimizer, learning_rate=0.25 * recipe.optimizer.learning_rate
    )
    return dataclasses.replace(
        stages["sft"],
        run_dir=str(folder),
        init_from=stages["sft"].run_dir,
        data=dataclasses.replace(one.data, **specs),
        sft=dataclasses.replace(recipe, train=train, optimizer=optimizer),
    )


def best_of_row(row: dict) -> dict | None:
    """A comparison's best completion as a demonstration; None where it did not end by itself."""
    best = int(np.argmin(row["ranks"]))
    reply = {"role": "assistant", "content": row["completions"][best]}
    return {"messages": [*row["prompt"], reply]} if row["stopped"][best] else None


def write(path: str, lines: list[str]) -> None:
    """Puts lines into a file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, "".join(lines))


def measure(config: Config, one: rlhf.Config, mesh: Mesh) -> dict[str, Any]:
    """A size as generator and as judge."""
    stages = rlhf.stage_configs(one)
    start = stages["sft"].run_dir, stages["reward"].run_dir
    yardstick = open_yardstick(*start, config.data, config.measure, mesh)
    yardstick = yardstick.with_seed(config.seed)
    clusters_N = [yardstick.task.cluster(row) for row in yardstick.rows]
    found = yardstick.ask(yardstick.finetuned.params)
    rollout = yardstick.rollout(found)
    shape = found.scores_AN.shape
    rewards_AN = np.asarray(answers.score(rollout, yardstick.reward, mesh)).reshape(shape)
    likelihood_AN = np.array([[sum(c.logprobs) for c in group] for group in found.completions_AN])
    judges = {"reward model": rewards_AN, "likelihood": likelihood_AN}
    result = judging(found.verdicts_AN == "right", judges, config.best_of, clusters_N)
    result |= {"taught": None, "parameters": parameter_count(yardstick.finetuned.config)}
    if config.taught:
        again = yardstick.ask(open_run(taught(one).run_dir, mesh=mesh).params)
        right_N = (again.verdicts_AN == "right").mean(axis=0)
        result["taught"] = mean_interval(right_N, clusters_N)
    return result


def publish(config: Config, found: dict[str, dict]) -> dict:
    """Writes what all sizes came to."""
    results = {
        "experiment": "judge_generator",
        "preset": config.preset,
        "command": command.invocation("judge_generator"),
        "seeds": config.seeds,
        "sizes": found,
    }
    distributed.on_main(lambda: publish_judging(Path(config.run_dir), results))
    return results


def together(config: Config, results: list[dict]) -> dict:
    """The same over seeds, of which each is one draw."""
    return publish(config, over([one["sizes"] for one in results]))


def over(trees: list[Any]) -> Any:
    """Trees of [mean, low, high] as one, with intervals over them; numbers as their mean."""
    first = trees[0]
    if isinstance(first, dict):
        return {key: over([tree[key] for tree in trees]) for key in first}
    if isinstance(first, list):
        return interval([tree[0] for tree in trees])
    if isinstance(first, float):
        return interval(trees)
    return None if None in trees else float(np.mean(trees))


def small(preset: str) -> Config:
    """The recipe of that preset."""
    return command.presets_as(Config, rlhf.presets)[preset]()


presets = {
    "smoke": lambda: dataclasses.replace(
        small("smoke"),
        run_dir="runs/judge_generator/smoke",
        models="runs/sizes/smoke",
        sizes=("16x1", "32x2"),
        measure=Measure(prompts=16, answers=4, max_new_tokens=16),
        best_of=(1, 2, 4),
    ),
    "tiny": lambda: dataclasses.replace(small("tiny"), run_dir="runs/judge_generator/tiny"),
    "colab": lambda: dataclasses.replace(
        small("colab"),
        run_dir="runs/judge_generator/colab",
        models="runs/sizes/colab",
        sizes=("64x3", "128x6", "256x8", "512x8"),
        measure=Measure(prompts=560, answers=64, max_new_tokens=64),
        best_of=(1, 2, 4, 8, 16, 32, 64),
    ),
}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
