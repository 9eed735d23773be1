"""InstructGPT's first figure: what finetuning, best-of-n, PPO and PPO-ptx win, over four sizes.

    python -m experiments.instructgpt
    python -m experiments.instructgpt --sizes 48x2 96x4
    python -m experiments.instructgpt --preset colab

Every size is pretrained, finetuned, labeled and given a reward model (in `--models`, where
`experiments.judge_generator` finds them, too), and then learns by PPO, with and without pretraining
gradients mixed in (PPO-ptx). All answer the same held-out prompts. Win rates are against fresh
answers of the largest finetuned model, by the gold score, a tie half, as Ouyang et al. 2022 have
them in figure 1. Beside them: the loss on held-out pretraining text, which PPO-ptx must lose less
of than PPO; the entropy per token; and the share of different answers among several to one prompt,
which is what RLHF gives up ("State of GPT": base models are better at naming seven).

Hardware and time: not measured; a size of the default model takes what `experiments.rlhf` takes (9
minutes on 2 CPU cores), smaller ones less.
Expected: not known yet.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import ppo, rlhf, sizes
from experiments.judge_generator import over
from gpt_jax.data import pipeline
from gpt_jax.data.batches import pad_rows
from gpt_jax.data.rows import language_rows
from gpt_jax.errors import UserError
from gpt_jax.evaluate.best_of import BestOf, reward_judge
from gpt_jax.evaluate.statistics import mean_interval, win_rate
from gpt_jax.evaluate.task import Performance, evaluate_task
from gpt_jax.evaluate.yardstick import Measure, Yardstick, open_yardstick
from gpt_jax.generate.text import TextModel
from gpt_jax.losses.lm import lm_loss
from gpt_jax.metrics import mean
from gpt_jax.models.presets import parameter_count
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.ranges import Positive, PositiveFloat
from gpt_jax.report.sizes import publish_sizes
from gpt_jax.train import command
from gpt_jax.train.evaluate import metrics_of
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.seeds_run import in_turn
from gpt_jax.train.served import open_run

ROWS = 64  # of held-out pretraining text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(rlhf.Config):
    run_dir: str = "runs/instructgpt/tiny"
    models: str = "runs/sizes/tiny"
    """Where the models lie, of every seed and size a whole run; `judge_generator` shares them."""
    sizes: tuple[str, ...] = ("32x2", "48x2", "64x3", "96x4")
    """WIDTHxLAYERS of the models, the largest last."""
    measure: Measure = Measure(answers=4)
    best_of: Positive = 4
    """The n of best-of-n."""
    ptx_coef: PositiveFloat = 1.0
    """The weight of the pretraining loss in PPO-ptx."""

    def __post_init__(self):
        super().__post_init__()
        sizes.check(self, self.sizes, "instructgpt")
        if self.ppo.ptx_coef:
            raise UserError("PPO is run without ptx, too; give --ptx-coef, not --ppo.ptx-coef")


def main(config: Config) -> dict:
    """Trains every size in every way, and writes the table and the figure."""
    if config.seeds > 1:
        found = in_turn("instructgpt", config, main)
        return publish(config, over([one["sizes"] for one in found]))
    folder, mesh = Path(config.run_dir), make_mesh(config.mesh)
    config.data.check()
    compare_config(folder, "instructgpt", config)
    record_config(folder, "instructgpt", config)
    for size in config.sizes:
        one = sizes.config_of(config, config.models, size)
        sizes.train(one, mesh, until="ppo")
        ppo.main(policies(config, one)["PPO-ptx"])
    largest = asked(config, config.sizes[-1], mesh)
    opponents = largest.with_seed(config.seed + 1).ask(largest.finetuned.params)
    found = {size: measure(config, size, opponents, mesh) for size in config.sizes}
    return publish(config, found)


def policies(config: Config, one: rlhf.Config) -> dict[str, ppo.Config]:
    """PPO of a size, without and with pretraining gradients."""
    plain = rlhf.stage_configs(one)["ppo"]
    mixed = dataclasses.replace(plain.ppo, ptx_coef=config.ptx_coef)
    return {
        "PPO": plain,
        "PPO-ptx": dataclasses.replace(plain, run_dir=f"{one.run_dir}/ppo_ptx", ppo=mixed),
    }


def asked(config: Config, size: str, mesh: Mesh) -> Yardstick:
    """The yardstick of a size."""
    stages = rlhf.stage_configs(sizes.config_of(config, config.models, size))
    folders = stages["sft"].run_dir, stages["reward"].run_dir
    return open_yardstick(*folders, config.data, config.measure, mesh).with_seed(config.seed)


def measure(
    config: Config, size: str, opponents: Performance, mesh: Mesh
) -> dict[str, dict[str, Any]]:
    """{model: what it comes to} of one size."""
    one, yardstick = sizes.config_of(config, config.models, size), asked(config, size, mesh)
    sft, task, rows = yardstick.finetuned, yardstick.task, yardstick.rows
    base = open_run(one.run_dir, "base", mesh)
    judge = reward_judge(yardstick.reward, sft, config.measure.max_new_tokens)
    models: dict[str, Any] = {"base": base, "SFT": sft}
    models[f"best-of-{config.best_of}"] = BestOf(sft.complete, judge, config.best_of)
    stages = policies(config, one)
    models |= {name: open_run(stage.run_dir, mesh=mesh) for name, stage in stages.items()}
    held_out = language_rows(config.data, "test", base.tokenizer, base.config.context_length)
    held_out = jax.tree.map(lambda x: x[:ROWS], held_out)
    clusters_N = [task.cluster(row) for row in rows]
    found = {}
    for name, model in models.items():
        answered = evaluate_task({name: model}, task, yardstick.sampling, rows)[name]
        wins = win_rate(answered.scores_AN, opponents.scores_AN, clusters_N)
        found[name] = {
            "parameters": parameter_count(sft.config),
            "win_rate": wins.win_rate,
            "gold": mean_interval(answered.scores_AN.mean(axis=0), clusters_N),
            "right": mean_interval((answered.verdicts_AN == "right").mean(axis=0), clusters_N),
            "distinct": mean_interval(distinct(answered.texts_AN), clusters_N),
        }
        if isinstance(model, TextModel):
            loss = text_loss(model, held_out, mesh)
            found[name] |= {"entropy": entropy(answered), "text_loss": loss}
    return found


def distinct(texts_AN: list[list[str]]) -> np.ndarray:
    """The share of different texts among the answers to each prompt, (N,)."""
    return np.array([len(set(texts)) / len(texts) for texts in zip(*texts_AN, strict=True)])


def entropy(answered: Performance) -> float:
    """Nats per token, the mean of -log p of what was drawn at the temperature of the draws."""
    drawn = [completion for group in answered.completions_AN for completion in group]
    total = sum(sum(completion.logprobs) for completion in drawn)
    return -total / max(1, sum(len(completion.logprobs) for completion in drawn))


def text_loss(model: TextModel, held_out: Any, mesh: Mesh) -> float:
    """The loss on held-out pretraining text, nats per token."""
    of = functools.partial(metrics_of, model.config, lm_loss, model.params)
    size = min(ROWS, len(held_out.weights_BT))
    batches = pipeline.in_order(pad_rows(held_out, size), size, mesh)
    parts = jax.device_get([of(batch, {}) for batch in batches])
    return float(mean(jax.tree.map(lambda *xs: sum(xs), *parts))["loss"])


def publish(config: Config, found: dict[str, dict]) -> dict:
    """Writes what all sizes came to."""
    results = {
        "experiment": "instructgpt",
        "preset": config.preset,
        "command": command.invocation("instructgpt"),
        "seeds": config.seeds,
        "sizes": found,
    }
    distributed.on_main(lambda: publish_sizes(Path(config.run_dir), results))
    return results


presets = {
    "smoke": lambda: dataclasses.replace(
        command.presets_as(Config, rlhf.presets)["smoke"](),
        run_dir="runs/instructgpt/smoke",
        models="runs/sizes/smoke",
        sizes=("16x1", "32x2"),
        measure=Measure(prompts=16, answers=2, max_new_tokens=16),
        best_of=2,
    ),
    "tiny": lambda: dataclasses.replace(
        command.presets_as(Config, rlhf.presets)["tiny"](), run_dir="runs/instructgpt/tiny"
    ),
    "colab": lambda: dataclasses.replace(
        command.presets_as(Config, rlhf.presets)["colab"](),
        run_dir="runs/instructgpt/colab",
        models="runs/sizes/colab",
        sizes=("64x3", "128x6", "256x8", "512x8"),
        measure=Measure(prompts=560, answers=8, max_new_tokens=64),
    ),
}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
