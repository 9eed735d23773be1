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
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich
from jax.sharding import Mesh

from experiments import ppo, pretrain, reward, sft
from gpt_jax import files
from gpt_jax.data import baselines
from gpt_jax.data.batches import pad_prompts
from gpt_jax.data.left_out import DROPPED, LeftOut
from gpt_jax.data.microworld import gold_score, make_world
from gpt_jax.data.packing import (
    pad_comparisons,
    pad_prompt_records,
    row_length,
    without_empty,
)
from gpt_jax.data.sources import MICROWORLD
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.evaluate import answers as evaluation
from gpt_jax.evaluate.answers import Answers, ranking_accuracies
from gpt_jax.evaluate.statistics import best_of_others, mean_interval, paired_difference, win_rate
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.ranges import NonNegative, Positive, check_ranges
from gpt_jax.report import results_table, run_verdict, write_report, write_samples
from gpt_jax.rl.rewards import model_reward
from gpt_jax.rl.scoring import model_scoring, trained_length
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import command
from gpt_jax.train.checkpoint import ModelFiles, load_model, load_model_files, load_params
from gpt_jax.train.gradient import GradientRecipe
from gpt_jax.train.launch import look_at, run_stage
from gpt_jax.train.record import record_config
from gpt_jax.train.run import is_finished
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
    record_config(folder, "rlhf", config)
    mesh = make_mesh(config.mesh)
    configs = stage_configs(config)
    unfinished = [name for name in configs if not is_finished(name, configs[name])]
    refuse_stale(configs, unfinished)
    stages = look_ahead(config, configs, unfinished, mesh)
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
    evaluation_prompts(config, files.tokenizer, LeftOut())
    for name, stage in stages.items():
        look_at(stage, configs[name].seed, mesh)
    return stages


def publish(folder: Path, results: dict) -> None:
    """Writes `results.json`, the samples and the report, and prints the table and the verdict."""
    results["seconds"] = json.loads((folder / "seconds.json").read_text())
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
    seconds = json.loads(path.read_text()) if path.is_file() else {}
    seconds[name] = seconds.get(name, 0.0) + round(time.monotonic() - started, 1)
    if distributed.is_main():
        files.write_text(path, json.dumps(seconds))
    return result


def evaluate(config: Config, folder: Path, mesh: Mesh) -> dict:
    """Every model answers the same held-out prompts, `answers` times, at PPO's temperature."""
    model, sft_params, tokenizer = load_model(folder / "sft", mesh)
    _, base_params, _ = load_model(folder / "pretrain", mesh)
    _, ppo_params, _ = load_model(folder / "ppo", mesh)
    scorer = load_params(folder / "reward", mesh)
    preference = model_reward(model, scorer)
    temperature, new_tokens = config.ppo.temperature, config.ppo.max_new_tokens

    left_out = LeftOut()
    rows = evaluation_prompts(config, tokenizer, left_out)
    room = model.context_length - new_tokens
    chats = pad_prompt_records(rows, tokenizer, room, left_out, "held-out prompts")
    # The base model never saw the chat tokens: it gets the conversation as a document.
    layout = chat.render_document_prompt
    kept = [chat.shorten(row["prompt"], tokenizer, room, layout) for row in rows]
    rendered = [layout(messages, tokenizer) for messages in kept]
    documents = pad_prompts(rendered, row_length(rendered, room), tokenizer.pad_id)

    def answers(name: str, params: dict, prompts, count: int) -> list[Answers]:
        return [
            evaluation.sample(
                model,
                params,
                prompts,
                tokenizer,
                max_new_tokens=new_tokens,
                temperature=temperature,
                seed=config.seed,
                mesh=mesh,
                purpose=f"evaluate/{name}/{i}",
            )
            for i in range(count)
        ]

    n = config.evaluate.answers
    # One more, so that best-of-n meets answers that it was not chosen from.
    sft_answers = answers("SFT", sft_params, chats, n + 1)
    base_answers = answers("base", base_params, documents, n)
    by_model = {
        "base": [evaluation.in_place_of_prompts(a, chats) for a in base_answers],
        "SFT": sft_answers,
        f"best-of-{n}": [evaluation.best_of(sft_answers[:n], preference, tokenizer, mesh)],
        "PPO": answers("PPO", ppo_params, chats, n),
    }
    # (answers, prompts) each; the answers to one prompt are averaged before anything is resampled.
    rewards = {
        name: np.array([evaluation.score(a, preference, mesh) for a in group])
        for name, group in by_model.items()
    }
    gold = config.data.has_gold and {
        name: np.array([gold_scores(rows, a) for a in group]) for name, group in by_model.items()
    }
    scores, clusters = gold or rewards, topics(rows, config.data.has_gold)

    def spread(params: dict, group: list[Answers]) -> dict[str, float]:
        return evaluation.divergence(model, params, sft_params, group[0], temperature, mesh)

    divergences = {
        "SFT": spread(sft_params, by_model["SFT"]),
        # The KL of best-of-n is log n - (n-1)/n at most (Stiennon et al. 2020, G.3).
        f"best-of-{n}": {"kl": float(np.log(n) - (n - 1) / n)},
        "PPO": spread(ppo_params, by_model["PPO"]),
    }

    def against_sft(name: str) -> dict:
        """The difference of a model's scores from SFT's, prompt by prompt, and who wins."""
        ours, theirs, meets = scores[name], scores["SFT"], True
        if name == "SFT":
            return {"win_rate_vs_sft": None}
        found = {"difference": paired_difference(ours.mean(0), theirs.mean(0), clusters)}
        if name == f"best-of-{n}":
            ours = np.take_along_axis(theirs, best_of_others(rewards["SFT"]), axis=0)
            meets = np.eye(n + 1)[:, :, None]
        found |= win_rate(ours, theirs, clusters, meets_ABN=meets)._asdict()
        return {f"{key}_vs_sft": value for key, value in found.items()}

    models = [
        {
            "name": name,
            "gold": mean_interval(gold[name].mean(0), clusters) if gold else None,
            "reward": mean_interval(rewards[name].mean(0), clusters),
            **against_sft(name),
            "correct": correctness(rows, group) if gold else None,
            "kl_from_sft": divergences.get(name, {}).get("kl"),
            "length": float(np.mean([a.lengths.mean() for a in group])),
            "entropy": divergences.get(name, {}).get("entropy"),
        }
        for name, group in by_model.items()
    ]
    return {
        "experiment": "rlhf",
        "preset": config.preset,
        "seed": config.seed,
        "device": jax.devices()[0].device_kind,
        "command": command.invocation("rlhf"),
        "models": models,
        "left_out": left_out.entries(),
        "reward_model": judge_reward_model(config, folder, mesh),
        "samples": [
            {
                "prompt": rows[i]["prompt"][-1]["content"],
                "answers": {name: group[0].texts[i] for name, group in by_model.items()},
            }
            for i in range(min(config.evaluate.samples, len(rows)))
        ],
    }


def evaluation_prompts(config: Config, tokenizer: Tokenizer, left_out: LeftOut) -> list[dict]:
    """Held-out prompts that fit as turns and as a document, drawn by what they say.

    Raises:
      UserError: if none fits.
    """
    rows = config.data.read("prompts", "test")
    room = config.pretrain.model.context_length - config.ppo.max_new_tokens
    layouts = (chat.render_prompt, chat.render_document_prompt)
    fitting = [
        row
        for row in rows
        if all(chat.shorten(row["prompt"], tokenizer, room, layout) for layout in layouts)
    ]
    left_out.add(DROPPED, "held-out prompts", len(rows), room, len(rows) - len(fitting))
    if not fitting:
        raise UserError(
            f"none of the held-out prompts fits in {room} tokens; give shorter ones, or lower "
            "--ppo.max-new-tokens"
        )
    return sample_rows(fitting, config.evaluate.prompts, config.seed)


def topics(rows: list[dict], in_microworld: bool) -> list[Hashable]:
    """What each prompt is about: prompts on one fact, or with one opening, are not independent."""
    if in_microworld:
        return [make_world().question(row["prompt"][-1]["content"]).about for row in rows]
    return [
        next(turn["content"] for turn in row["prompt"] if turn["role"] == "user") for row in rows
    ]


def gold_scores(rows: list[dict], answers: Answers) -> np.ndarray:
    """The gold score of every answer, float64 (prompts,)."""
    return np.array(
        [
            gold_score(row["prompt"][-1]["content"], text, stopped)
            for row, text, stopped in zip(rows, answers.texts, answers.stopped, strict=True)
        ]
    )


def correctness(rows: list[dict], group: list[Answers]) -> float:
    """Share of right answers."""
    judge = make_world().is_correct
    pairs = [pair for a in group for pair in zip(rows, a.texts, strict=True)]
    return float(np.mean([judge(row["prompt"][-1]["content"], text) for row, text in pairs]))


def judge_reward_model(config: Config, folder: Path, mesh: Mesh) -> dict:
    """Held-out accuracy beside what needs no model: the longer answer, and a bag of words."""
    model, tokenizer = load_model_files(folder / "reward")
    train, test = (config.data.read("comparisons", split) for split in ("train", "test"))
    longest = trained_length(folder / "reward") or model.context_length
    # What does not fit was counted by the reward model's stage.
    padded = pad_comparisons(test, tokenizer, longest, LeftOut())
    padded, numbers = without_empty(padded, "held-out comparisons", longest)
    test = [test[n] for n in numbers]
    correct_P, rows_P = ranking_accuracies(
        model,
        load_params(folder / "reward", mesh),
        padded,
        mesh,
    )
    in_microworld = (config.data.test_comparisons or config.data.comparisons) == MICROWORLD
    clusters = topics(test, in_microworld)
    return {
        "accuracy": mean_interval(correct_P, [clusters[row] for row in rows_P]),
        "pairs": len(correct_P),
        "longer_answer_baseline": baselines.longer_answer(test),
        "bag_of_words_baseline": baselines.bag_of_words(train, test),
    }


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
