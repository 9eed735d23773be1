"""The whole recipe: tokenizer, pretraining, SFT, labels, reward model, PPO, evaluation, report.

    python -m experiments.rlhf
    python -m experiments.rlhf --preset colab
    python -m experiments.rlhf --data.text corpus.txt --data.demonstrations chats.jsonl.gz \\
        --data.comparisons pairs.jsonl.gz --run-dir runs/rlhf/mine
    python -m experiments.rlhf --rounds 2
    python -m experiments.rlhf --seeds 5
    python -m experiments.rlhf --init-from hf:HuggingFaceTB/SmolLM2-135M-Instruct --context 256 ...
    python -m experiments.rlhf --preset smollm2    # settings and data: experiments/smollm2.py

Each stage is an experiment of its own; this file only composes them, in one run folder. Running
the same command again resumes where it stopped. At the end it prints a table (`results.json`),
draws `report.html`, and `python -m gpt_jax.chat RUN_DIR` talks to the result.

Hardware and time (tiny): 8 to 9 minutes on 2 CPU cores, no accelerator, no internet.
Expected (tiny, microworld): gold score base < SFT < PPO, and more right answers after PPO than
before; see the README for the numbers.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from experiments import label, ppo, pretrain, reward, sft, smollm2
from gpt_jax import files
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.evaluate import policies
from gpt_jax.evaluate.over_seeds import over_seeds
from gpt_jax.evaluate.ranking import judge_reward_model
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.labels.answers import FILE as ANSWERS
from gpt_jax.labels.labeler import Label
from gpt_jax.machine import machine, peak_memory_gb
from gpt_jax.models.lora import LoraConfig
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.ranges import NonNegative, Positive, check_ranges
from gpt_jax.report import publish
from gpt_jax.report.stages import kind_of
from gpt_jax.rl.rewards import model_reward
from gpt_jax.rl.scoring import Scoring, model_scoring, trained_length
from gpt_jax.tasks.prompts import task_of
from gpt_jax.train import command
from gpt_jax.train.adapters import FrozenDtype
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.gradient import GradientRecipe
from gpt_jax.train.launch import look_at, run_stage
from gpt_jax.train.origin import load_params, start_of
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.run import is_finished
from gpt_jax.train.seconds import seconds_of, timed
from gpt_jax.train.seeds_run import configs_of, in_turn, join_metrics
from gpt_jax.train.served import open_run


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
    init_from: str | None = None
    """A model to finetune, in place of pretraining one: a run folder, a Hugging Face folder,
    hf:ORG/NAME or gguf:FILE."""
    context: Positive | None = None
    """Of that model use no more than so many tokens of its context."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """What that model computes in."""
    template: str | None = None
    """The chat template that it is to learn, if it has none or another (`experiments.sft`)."""
    group_by_length: bool = False
    """The reward model learns from batches of comparisons of alike length."""
    lora: LoraConfig = LoraConfig()
    """With a rank, finetuning, reward model and PPO learn adapters on the base model's weights."""
    frozen_dtype: FrozenDtype = None
    """How the matrices of what is frozen are kept (`train.tuning.Tuned`)."""
    pretrain: pretrain.Pretrain
    """Not used with `--init-from`."""
    sft: GradientRecipe
    label: Label
    """Not used with ready-made `--data.comparisons`."""
    reward: reward.Reward
    ppo: ppo.PPO
    rounds: Positive = 1
    """In each round after the first the last policy's answers are labeled, a reward model learns
    from all labels so far, and PPO goes on (Bai et al. 2022, 4.5; Touvron et al. 2023, 3.2)."""
    evaluate: Evaluate = Evaluate()

    def __post_init__(self):
        super().__post_init__()
        if self.rounds > 1 and self.data.comparisons:
            raise UserError(
                "--rounds needs labels of the policy's own answers; leave --data.comparisons out"
            )
        if self.init_from is None and (self.context or self.dtype or self.template):
            raise UserError(
                "--context, --dtype and --template are of the model in --init-from; of one that is "
                "pretrained here give --pretrain.model.context-length and --pretrain.model.dtype"
            )


def main(config: Config) -> dict:
    """Runs all stages and returns what `results.json` holds."""
    if config.preset == smollm2.PRESET:
        smollm2.check(config.data)
    if config.seeds > 1:
        return run_seeds(config)
    config.data.check()
    folder = Path(config.run_dir)
    compare_config(folder, "rlhf", config)
    mesh = make_mesh(config.mesh)
    configs = stage_configs(config)
    unfinished = [name for name in configs if not is_done(name, configs[name])]
    refuse_stale(configs, unfinished)
    runs = look_ahead(config, configs, unfinished, mesh)
    record_config(folder, "rlhf", config)  # only now: what cannot work leaves no folder behind
    for name in unfinished:
        if not timed(folder, name, runs.pop(name)):
            return {}  # people are to go on
    with jax.set_mesh(mesh):
        results = timed(folder, "evaluate", lambda: evaluate(config, folder, mesh))
    results |= {"seconds": seconds_of(folder), "peak_memory_gb": peak_memory_gb()}
    results |= {"machine": machine()}
    distributed.on_main(lambda: publish(folder, results))
    return results


def run_seeds(config: Config) -> dict:
    """Runs the whole recipe with every seed in turn, and returns what they come to together."""

    def run_one(one: Config) -> dict:
        written = Path(one.run_dir) / "results.json"
        compare_config(Path(one.run_dir), "rlhf", one)
        if written.is_file() and all(is_done(*stage) for stage in stage_configs(one).items()):
            return files.read_json(written, "remove it and run again")
        return main(one)

    config.data.check()
    folder, results = Path(config.run_dir), in_turn("rlhf", config, run_one)
    for name, stages in stage_configs(config).items():
        there = [f"{one.run_dir}/{name}" for one in configs_of(config)]
        join_metrics(Path(stages.run_dir), [Path(one) for one in there])
    if not all(results):
        return {}  # people are to go on
    together = over_seeds(results) | {"command": command.invocation("rlhf")}
    distributed.on_main(lambda: publish(folder, together))
    return together


def is_done(name: str, config: command.Common) -> bool:
    """Whether a stage is finished (and says so)."""
    kind = kind_of(name)
    return label.is_finished(config) if kind == "label" else is_finished(kind, config)


def refuse_stale(configs: dict[str, Any], unfinished: list[str]) -> None:
    """Raises a UserError if a stage that has begun stands behind one that still changes."""
    later = list(configs)[list(configs).index(unfinished[0]) + 1 :] if unfinished else []
    for name in later:
        folder = Path(configs[name].run_dir)
        if any(folder.glob("checkpoints/*")) or (folder / ANSWERS).is_file():
            raise UserError(
                f"{folder} was made from what {unfinished[0]} had come to before; remove it to "
                "make it anew, or choose another --run-dir"
            )


def stage_configs(config: Config) -> dict[str, command.Common]:
    """The configuration of every stage, each in a folder of its own."""
    folder, small = config.run_dir, config.frozen_dtype
    tuned = {"lora": config.lora, "frozen_dtype": small if config.lora.rank else None}

    def shared(name: str) -> dict:
        return command.shared(config, run_dir=f"{folder}/{name}")

    configs = {}
    if config.init_from is None:
        configs["pretrain"] = pretrain.Config(**shared("pretrain"), pretrain=config.pretrain)
    configs["sft"] = sft.Config(
        **shared("sft"),
        init_from=config.init_from or f"{folder}/pretrain",
        context=config.context,
        dtype=config.dtype,
        template=config.template,
        sft=config.sft,
        **tuned,
    )
    start, labels, before = f"{folder}/sft", (), None
    for number in range(1, config.rounds + 1):
        end = "" if number == 1 else f"{number}"
        if not config.data.comparisons:
            labels += (f"{folder}/label{end}",)
            configs[f"label{end}"] = label.Config(
                **shared(f"label{end}"), init_from=before or start, round=number, label=config.label
            )
        configs[f"reward{end}"] = reward.Config(
            **shared(f"reward{end}"),
            init_from=start,
            labels_from=labels,
            group_by_length=config.group_by_length,
            reward=config.reward,
            **tuned,
        )
        configs[f"ppo{end}"] = ppo.Config(
            **shared(f"ppo{end}"),
            init_from=start,
            policy_from=before,
            reward_from=f"{folder}/reward{end}",
            ppo=config.ppo,
            **(tuned | {"frozen_dtype": small}),
        )
        before = f"{folder}/ppo{end}"
    return configs


def look_ahead(
    config: Config, configs: dict[str, Any], unfinished: list[str], mesh: Mesh
) -> dict[str, Callable[[], bool]]:
    """What is still to be run, with all that can be known of it before the first step.

    The tokenizer is trained, all data is laid out, and every step is traced on its shapes.

    Returns:
      {stage: a function that runs it}; the function says whether the next stage may begin.
    """
    start = base_files(config)
    model = start.model
    stages, prompts_of = {}, functools.cache(lambda name: label.prompts_of(configs[name], start))

    def expected(name: str) -> reward.Expected | None:
        """Of the labels that a reward model learns from."""
        folders = configs[name].labels_from
        asked = [prompts_of(name) for name in configs if configs[name].run_dir in folders]
        recipe = config.label
        return asked and reward.Expected(
            train=sum(some.count("train") for some in asked),
            test=sum(some.count("test") for some in asked),
            answers=recipe.answers,
            longest=max(some.longest(recipe.max_new_tokens) for some in asked),
        )

    def longest(folder: str) -> int | None:
        name = Path(folder).name
        return stages[name].longest if name in stages else trained_length(folder)

    def scoring(folder: str) -> Scoring:
        """By the reward model that will be there, whose adapters stand on what all others do."""
        lora = config.lora if config.lora.rank else None
        return model_scoring(model, longest(folder), config.reward.options, folder, lora)

    prepare = {
        "pretrain": lambda c, name: pretrain.prepare(c, start.tokenizer, mesh),
        "sft": lambda c, name: sft.prepare(c, start, mesh),
        "reward": lambda c, name: reward.prepare(c, start, mesh, expected(name)),
        "ppo": lambda c, name: ppo.prepare(c, start, scoring(c.reward_from), mesh),
    }
    for name in unfinished:
        if kind_of(name) == "label":
            prompts_of(name)
        else:
            stages[name] = prepare[kind_of(name)](configs[name], name)
    evaluation_rows(config, start, LeftOut())
    for name, stage in stages.items():
        look_at(stage, configs[name].seed, mesh)

    def run(name: str) -> bool:
        kind, this = kind_of(name), configs[name]
        if kind == "label":
            return label.make(this, start, mesh)
        stage = stages.pop(name)
        if kind == "reward" and this.labels_from:  # by now they are there
            stage = prepare[kind](this, name)
        run_stage(kind, this, lambda config, mesh: stage)
        return True

    return {name: functools.partial(run, name) for name in unfinished}


def base_files(config: Config) -> ModelFiles:
    """Shape and tokenizer of the model that is finetuned."""
    if config.init_from is not None:
        return start_of(stage_configs(config)["sft"], template=config.template)
    this = stage_configs(config)["pretrain"]
    return ModelFiles(this.pretrain.model, pretrain.tokenizer_of(this))


def open_base(config: Config, mesh: Mesh) -> TextModel:
    """The model that is finetuned, to be asked."""
    if config.init_from is None:
        return open_run(config.run_dir, "base", mesh)
    return open_run(config.init_from, mesh=mesh, context=config.context, dtype=config.dtype)


def evaluate(config: Config, folder: Path, mesh: Mesh) -> dict:
    """Every model answers the same held-out prompts, `answers` times, at PPO's temperature."""
    sft, base = open_run(folder, "sft", mesh), open_base(config, mesh)
    rounds = ["", *map(str, range(2, config.rounds + 1))]
    learned = {
        f"PPO, round {end}" if end else "PPO": open_run(folder / f"ppo{end}", mesh=mesh)
        for end in rounds
    }
    judge = stage_configs(config)[f"reward{rounds[-1]}"]  # the last one's
    preference = model_reward(sft.config, load_params(judge.run_dir, mesh))
    task = task_of(config.data)
    left_out = LeftOut()
    rows = evaluation_rows(config, ModelFiles(sft.config, sft.tokenizer), left_out)
    sampling = Sampling(
        max_new_tokens=config.ppo.max_new_tokens,
        temperature=config.ppo.temperature,
        n=config.evaluate.answers,
        seed=config.seed,
    )
    compared = policies.Policies(sft, base, learned, preference)
    models, found, own_samples = policies.compare(compared, task, rows, sampling, left_out)
    judged = judge_reward_model(
        Path(judge.run_dir),
        *(reward.comparisons_of(judge, split) for split in ("train", "test")),
        cluster=reward.cluster_of(judge),
        mesh=mesh,
    )
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


def evaluation_rows(config: Config, start: ModelFiles, left_out: LeftOut) -> list[dict]:
    """The held-out prompts that every model answers, drawn by what they say."""
    room = start.model.context_length - config.ppo.max_new_tokens - config.reward.readout
    rows = policies.fitting_rows(task_of(config.data), start.tokenizer, room, left_out)
    return sample_rows(rows, config.evaluate.prompts, config.seed)


def compose(name: str, evaluate: Evaluate) -> Config:
    """The stages' presets of one name, together."""
    return Config(
        preset=name,
        run_dir=f"runs/rlhf/{name}",
        pretrain=pretrain.presets[name]().pretrain,
        sft=sft.presets[name]().sft,
        label=label.presets[name]().label,
        reward=reward.presets[name]().reward,
        ppo=ppo.presets[name]().ppo,
        evaluate=evaluate,
    )


def from_smollm2() -> Config:
    """From real weights, on real data."""
    sizes = Evaluate(prompts=40, answers=2, samples=10)
    return Config(
        preset=smollm2.PRESET, run_dir="runs/rlhf/smollm2", evaluate=sizes, **smollm2.recipe()
    )


presets = {
    "smoke": lambda: compose("smoke", Evaluate(prompts=32, answers=2, samples=3)),
    "tiny": lambda: compose("tiny", Evaluate()),
    "colab": lambda: compose("colab", Evaluate(answers=8)),
    smollm2.PRESET: from_smollm2,
}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
