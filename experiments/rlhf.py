"""The whole recipe: tokenizer, pretraining, SFT, reward model, PPO, evaluation, report.

    python -m experiments.rlhf
    python -m experiments.rlhf --preset colab
    python -m experiments.rlhf --data.text corpus.txt --data.demonstrations chats.jsonl.gz \\
        --data.comparisons pairs.jsonl.gz --run-dir runs/rlhf/mine

Each stage is an experiment of its own; this file only composes them, in one run folder. Running
the same command again resumes where it stopped. At the end it prints a table (`results.json`),
draws `report.html`, and `python -m gpt_jax.chat RUN_DIR` talks to the result.

Hardware and time (tiny): under 10 minutes on 2 CPU cores, no accelerator, no internet.
Expected (tiny, microworld): gold score base < SFT < PPO; see the README for the numbers.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import rich
from jax.sharding import Mesh

from experiments import ppo, pretrain, reward, sft
from gpt_jax import files
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.evaluate import policies
from gpt_jax.evaluate.ranking import judge_reward_model
from gpt_jax.generate.sampling import Sampling
from gpt_jax.machine import machine, peak_memory_gb
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.ranges import NonNegative, Positive, check_ranges
from gpt_jax.report import results_table, run_verdict, write_report, write_samples
from gpt_jax.rl.rewards import model_reward
from gpt_jax.rl.scoring import model_scoring, trained_length
from gpt_jax.tasks.prompts import task_of
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train.checkpoint import ModelFiles, load_params
from gpt_jax.train.gradient import GradientRecipe
from gpt_jax.train.launch import look_at, run_stage
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.run import is_finished
from gpt_jax.train.served import open_run
from gpt_jax.train.stage import Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    prompts: Positive = 560
    """Held-out prompts that every model answers."""
    answers: Positive = 4
    """Answers of every model to each prompt; also the n of best-of-n under the reward model."""
    samples: NonNegative = 6
    """Prompts whose answers are shown in the report."""

    def __post_init__(self):
        check_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/rlhf/tiny"
    pretrain: pretrain.Pretrain
    sft: GradientRecipe
    reward: reward.Reward
    ppo: ppo.PPO
    evaluate: Evaluate = Evaluate()


def main(config: Config) -> dict:
    """Runs all stages and returns what `results.json` holds."""
    config.data.check()
    folder = Path(config.run_dir)
    compare_config(folder, "rlhf", config)
    mesh = make_mesh(config.mesh)
    configs = stage_configs(config)
    unfinished = [name for name in configs if not is_finished(name, configs[name])]
    refuse_stale(configs, unfinished)
    stages = look_ahead(config, configs, unfinished, mesh)
    record_config(folder, "rlhf", config)  # only now: what cannot work leaves no folder behind
    for name in unfinished:
        stage = stages.pop(name)
        timed(folder, name, lambda: run_stage(name, configs[name], lambda mesh: stage))  # noqa: B023
    with jax.set_mesh(mesh):
        results = timed(folder, "evaluate", lambda: evaluate(config, folder, mesh))
    distributed.on_main(lambda: publish(folder, results))
    return results


def refuse_stale(configs: dict[str, Any], unfinished: list[str]) -> None:
    """Raises a UserError if a stage that has begun stands behind one that still changes."""
    later = list(configs)[list(configs).index(unfinished[0]) + 1 :] if unfinished else []
    for name in later:
        folder = Path(configs[name].run_dir)
        if (folder / "checkpoints").is_dir() and any((folder / "checkpoints").iterdir()):
            raise UserError(
                f"{folder} was made from what {unfinished[0]} had come to before; remove it to "
                "make it anew, or choose another --run-dir"
            )


def stage_configs(config: Config) -> dict[str, command.Common]:
    """The configuration of every stage, each in a folder of its own."""
    folder = config.run_dir

    def shared(name: str) -> dict:
        return command.shared(config, run_dir=f"{folder}/{name}")

    return {
        "pretrain": pretrain.Config(**shared("pretrain"), pretrain=config.pretrain),
        "sft": sft.Config(**shared("sft"), init_from=f"{folder}/pretrain", sft=config.sft),
        "reward": reward.Config(
            **shared("reward"), init_from=f"{folder}/sft", reward=config.reward
        ),
        "ppo": ppo.Config(
            **shared("ppo"),
            init_from=f"{folder}/sft",
            reward_from=f"{folder}/reward",
            ppo=config.ppo,
        ),
    }


def look_ahead(
    config: Config, configs: dict[str, Any], unfinished: list[str], mesh: Mesh
) -> dict[str, Stage]:
    """The stages that are still to be run, with all that can be known of them before the first.

    The tokenizer is trained, all data is laid out, and every step is traced on its shapes.
    """
    model = configs["pretrain"].pretrain.model
    files = ModelFiles(model, pretrain.tokenizer_of(configs["pretrain"]))
    prepare = {
        "pretrain": lambda c: pretrain.prepare(c, files.tokenizer, mesh),
        "sft": lambda c: sft.prepare(c, files, mesh),
        "reward": lambda c: reward.prepare(c, files, mesh),
        "ppo": lambda c: ppo.prepare(c, files, model_scoring(model, longest()), mesh),
    }
    stages = {}

    def longest() -> int | None:
        folder = configs["reward"].run_dir
        return stages["reward"].longest if "reward" in stages else trained_length(folder)

    for name in unfinished:
        stages[name] = prepare[name](configs[name])
    evaluation_rows(config, files.tokenizer, LeftOut())
    for name, stage in stages.items():
        look_at(stage, configs[name].seed, mesh)
    return stages


def publish(folder: Path, results: dict) -> None:
    """Writes `results.json`, the samples and the report, and prints the table and the verdict."""
    results["seconds"] = seconds_of(folder)
    results |= {"peak_memory_gb": peak_memory_gb(), "machine": machine()}
    files.write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_samples(folder, results["samples"])
    write_report(folder)
    rich.print(results_table(results))
    print(run_verdict(results))
    for entry in results["left_out"]:
        print(f"evaluate: {entry['count']:,} {entry['what']}")
    print(f"{folder}/report.html has the plots; python -m gpt_jax.chat {folder} talks to it")


def timed(folder: Path, name: str, stage):
    """Runs a stage and adds its seconds to `seconds.json` (a resumed run adds to what it had)."""
    started = time.monotonic()
    result = stage()
    path = folder / "seconds.json"
    seconds = seconds_of(folder)
    seconds[name] = seconds.get(name, 0.0) + round(time.monotonic() - started, 1)
    if distributed.is_main():
        files.write_text(path, json.dumps(seconds))
    return result


def seconds_of(folder: Path) -> dict[str, float]:
    """What the stages have taken so far."""
    path = folder / "seconds.json"
    return files.read_json(path, "remove it and run again") if path.is_file() else {}


def evaluate(config: Config, folder: Path, mesh: Mesh) -> dict:
    """Every model answers the same held-out prompts, `answers` times, at PPO's temperature."""
    sft, base, ppo = (open_run(folder, name, mesh) for name in ("sft", "base", "ppo"))
    preference = model_reward(sft.config, load_params(folder / "reward", mesh))
    task = task_of(config.data)
    left_out = LeftOut()
    rows = evaluation_rows(config, sft.tokenizer, left_out)
    sampling = Sampling(
        max_new_tokens=config.ppo.max_new_tokens,
        temperature=config.ppo.temperature,
        n=config.evaluate.answers,
        seed=config.seed,
    )
    compared = policies.Policies(sft, base, {"PPO": ppo}, preference)
    models, found, own_samples = policies.compare(compared, task, rows, sampling, left_out)
    judged = judge_reward_model(folder / "reward", config.data, mesh)
    return {
        "experiment": "rlhf",
        "preset": config.preset,
        "seed": config.seed,
        "device": jax.devices()[0].device_kind,
        "command": command.invocation("rlhf"),
        "models": models,
        "left_out": left_out.entries(),
        "reward_model": judged | {"own_samples": own_samples},
        "samples": [
            {
                "prompt": rows[i]["prompt"][-1]["content"],
                "answers": {name: one.texts_AN[0][i] for name, one in found.items()},
            }
            for i in range(min(config.evaluate.samples, len(rows)))
        ],
    }


def evaluation_rows(config: Config, tokenizer: Tokenizer, left_out: LeftOut) -> list[dict]:
    """The held-out prompts that every model answers, drawn by what they say."""
    room = config.pretrain.model.context_length - config.ppo.max_new_tokens
    rows = policies.fitting_rows(task_of(config.data), tokenizer, room, left_out)
    return sample_rows(rows, config.evaluate.prompts, config.seed)


def compose(name: str, evaluate: Evaluate) -> Config:
    """The stages' presets of one name, together."""
    return Config(
        preset=name,
        run_dir=f"runs/rlhf/{name}",
        pretrain=pretrain.presets[name]().pretrain,
        sft=sft.presets[name]().sft,
        reward=reward.presets[name]().reward,
        ppo=ppo.presets[name]().ppo,
        evaluate=evaluate,
    )


presets = {
    "smoke": lambda: compose("smoke", Evaluate(prompts=32, answers=2, samples=3)),
    "tiny": lambda: compose("tiny", Evaluate()),
    "colab": lambda: compose("colab", Evaluate(answers=8)),
}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
