"""PPO for positive sentiment: SmolLM2 goes on with openings of movie reviews (Ziegler et al. 2019).

    python -m experiments.sentiment
    python -m experiments.sentiment --ppo.kl-target 2 --run-dir runs/sentiment/close
    python -m experiments.sentiment --reward "task:sentiment + 0.2*rule:repetition"
    python -m experiments.sentiment --init-from hf:ORG/NAME ...

The policy writes 24 tokens after an opening, as after any text, in no chat; the reward is VADER's
compound rating of them, from -1 to 1 (`gpt_jax/tasks/sentiment.py`; `pip install
"gpt_jax[pretrained,sentiment]"`). Policy, reference and value model are adapters on one copy of
the weights. An adaptive price holds the KL near `kl_target`; what it must stay under is BOUND.
Before and after are measured on held-out openings: `results.json`, and `samples.md` to read.

Hardware and time (tiny): 7 minutes on 2 CPU cores (24 s an iteration), 5 GB of memory.
Expected (tiny, seeds 0 and 1): the held-out rating rises from 0.05 and 0.07 to 0.56 and 0.59
(differences 0.50 [0.42, 0.59] and 0.52 [0.44, 0.60]) at 3.6 and 5.4 nats; docs/smollm2.md.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import ppo, smollm2
from gpt_jax import files
from gpt_jax.data.config import DataConfig
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pad_prompt_records
from gpt_jax.errors import UserError
from gpt_jax.evaluate import answers
from gpt_jax.evaluate.statistics import mean_interval, paired_difference
from gpt_jax.evaluate.task import Performance, evaluate_task
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Layout
from gpt_jax.machine import machine
from gpt_jax.metrics import read_metrics
from gpt_jax.models.lora import LoraConfig
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.ranges import Positive, Range, check_ranges
from gpt_jax.rl.stage import RENDER
from gpt_jax.tasks import sentiment
from gpt_jax.tasks.sentiment import SENTIMENT
from gpt_jax.train import command
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.origin import start_of
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.seeds_run import in_turn
from gpt_jax.train.served import open_run
from gpt_jax.train.stage import LoopConfig

BOUND = 10.0  # nats of KL per continuation, said before anything was run
SHOWN = 10  # held-out openings in samples.md


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    openings: Annotated[int, Range(2, 80)] = 80
    """Held-out openings, evenly from all frames."""
    answers: Positive = 2
    """Continuations of each, before and after."""

    def __post_init__(self):
        check_ranges(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ppo.Config):
    run_dir: str = "runs/sentiment/default"
    init_from: str = dataclasses.field(default_factory=smollm2.weights)
    """What is gone on from, and held close to."""
    context: Positive | None = 64
    reward: str | None = "gpt_jax.tasks.sentiment:compound"
    layout: Layout = "document"
    lora: LoraConfig = LoraConfig(rank=16)
    evaluate: Evaluate = Evaluate()


def main(config: Config) -> dict:
    """Runs PPO, measures before and after, and returns what `results.json` holds: of many seeds the
    first's."""
    if config.seeds > 1:
        return in_turn("sentiment", config, main)[0]
    folder, mesh = Path(config.run_dir), make_mesh(config.mesh)
    check(config)
    compare_config(folder, "sentiment", config)
    stage = stage_config(config, write_openings(folder / "data"))
    ppo.main(stage)
    record_config(folder, "sentiment", config)  # only now: what cannot work is not held to it
    with jax.set_mesh(mesh):
        results = measure(config, stage, mesh)
    text = json.dumps(results, indent=2) + "\n"
    distributed.on_main(lambda: files.write_text(folder / "results.json", text))
    print(verdict(results))
    return results


def check(config: Config) -> None:
    """Looks at what is needed after PPO, which looks at the rest.

    Raises:
      UserError: if the rating cannot be had, a held-out opening does not fit, or data are given.
    """
    sentiment.analyzer()
    if config.data != DataConfig():
        raise UserError(
            "experiments.sentiment goes on with openings of its own; leave --data out, or give "
            "yours to experiments.ppo --layout document"
        )
    model, tokenizer = start_of(config)
    room, render = model.context_length - config.ppo.max_new_tokens, RENDER[config.layout]
    longest = max(len(render(row["prompt"], tokenizer)) for row in held_out(config))
    if longest > room:
        raise UserError(
            f"a held-out opening has {longest} tokens, and --ppo.max-new-tokens "
            f"{config.ppo.max_new_tokens} leaves room for {room} of the context of "
            f"{model.context_length}; give a larger --context"
        )


def held_out(config: Config) -> list[dict]:
    """The openings that are measured on."""
    return evenly(SENTIMENT.rows("test"), config.evaluate.openings)


def evenly(rows: list, n: int) -> list:
    """At most so many rows, from the first to the last."""
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, n).astype(int))]


def write_openings(folder: Path) -> DataConfig:
    """The openings as files that a reader can look at."""
    paths = {}
    for split, name in (("train", "prompts"), ("test", "test_prompts")):
        lines = (json.dumps({"prompt": opening(row)}) + "\n" for row in SENTIMENT.rows(split))
        paths[name], text = str(folder / f"{name}.jsonl"), "".join(lines)
        distributed.on_main(lambda path=paths[name], text=text: files.write_text(path, text))
    return DataConfig(**paths)


def opening(row: dict) -> str:
    """The text that is gone on with."""
    return row["prompt"][0]["content"]


def stage_config(config: Config, data: DataConfig) -> ppo.Config:
    """The configuration of PPO itself, in a folder of its own."""
    names = [field.name for field in dataclasses.fields(ppo.Config)]
    settings = {name: getattr(config, name) for name in names}
    return ppo.Config(**settings | {"data": data, "run_dir": f"{config.run_dir}/ppo"})


def measure(config: Config, stage: ppo.Config, mesh: Mesh) -> dict:
    """The model before and after on the same held-out openings; writes `samples.md`."""
    recipe, new = config.ppo, config.ppo.max_new_tokens
    models = {
        "before": open_run(stage.init_from, mesh=mesh, context=stage.context, dtype=stage.dtype),
        "after": open_run(stage.run_dir, mesh=mesh),
    }
    models = {name: model._replace(layout=config.layout) for name, model in models.items()}
    rows = held_out(config)
    sampling = Sampling(
        max_new_tokens=new,
        temperature=recipe.temperature,
        n=config.evaluate.answers,
        seed=config.seed,
    )
    found = evaluate_task(models, SENTIMENT._replace(prompt=opening), sampling, rows)
    frames = [SENTIMENT.cluster(row) for row in rows]
    scores = {name: one.scores_AN.mean(0) for name, one in found.items()}
    kl_N = divergences(config, rows, found["after"], models, mesh)
    kl = mean_interval(kl_N, frames)
    trained = read_metrics(stage.run_dir)
    distributed.on_main(lambda: write_samples(Path(config.run_dir), rows, found))
    return {
        "experiment": "sentiment",
        "preset": config.preset,
        "command": command.invocation("sentiment"),
        **{name: mean_interval(one, frames) for name, one in scores.items()},
        "difference": paired_difference(scores["after"], scores["before"], frames),
        "kl": kl,
        "kl_while_learning": max(row["objective/kl"] for row in trained),
        "kl_bound": BOUND,
        "openings": len(rows),
        "continuations_of_each": config.evaluate.answers,
        "episodes": recipe.train.steps * recipe.episodes,
        "machine": machine(),
    }


def divergences(
    config: Config, rows: list[dict], after: Performance, models: dict, mesh: Mesh
) -> np.ndarray:
    """log p - log p_before of the first continuation of every opening, (N,)."""
    before, learned = models["before"], models["after"]
    new = config.ppo.max_new_tokens
    render = RENDER[config.layout]
    room = learned.config.context_length - new
    prompts = pad_prompt_records(rows, learned.tokenizer, room, LeftOut(), render=render)
    rollout = answers.behind(prompts, after.completions_AN[0], learned.tokenizer, new)
    kl_N, _ = answers.divergences(
        learned.config, learned.params, before.params, rollout, config.ppo.temperature, mesh
    )
    return kl_N


def write_samples(folder: Path, rows: list[dict], found: dict[str, Performance]) -> None:
    """The first continuations of some held-out openings, evenly taken and not chosen."""

    def cell(name: str, n: int) -> str:
        text = " ".join(found[name].texts_AN[0][n].split()).replace("|", "\\|")
        return f"{text} ({found[name].scores_AN[0, n]:.2f})"

    lines = ["| opening | before | after |", "| --- | --- | --- |"]
    for n in evenly(list(range(len(rows))), SHOWN):
        lines.append(f"| {opening(rows[n])} | {cell('before', n)} | {cell('after', n)} |")
    files.write_text(folder / "samples.md", "\n".join(lines) + "\n")


def verdict(results: dict) -> str:
    """What came of it, in one sentence."""
    (before, *_), (after, *_), (more, low, high) = (
        results[name] for name in ("before", "after", "difference")
    )
    kl, most = results["kl"][0], results["kl_while_learning"]
    return (
        f"sentiment: held-out rating {before:.3f} before, {after:.3f} after (difference {more:.3f} "
        f"[{low:.3f}, {high:.3f}]), at {kl:.2f} nats (at most {most:.2f} while learning; the bound "
        f"is {BOUND:g})"
    )


def recipe(steps: int, episodes: int, epochs: int, minibatches: int) -> ppo.PPO:
    """What all presets share. A run has a thousand episodes or some, and the controller's horizon
    is five iterations, so that the price can move by 4% in each."""
    return ppo.PPO(
        episodes=episodes,
        epochs=epochs,
        minibatches=minibatches,
        max_new_tokens=24,
        missing_stop_score=None,  # a continuation is as long as it is
        value_init="zero",
        kl_controller="adaptive",
        kl_coef=0.06,
        kl_target=5.0,
        kl_horizon=5.0 * episodes,
        optimizer=OptimizerConfig(
            learning_rate=5e-4, schedule="linear", weight_decay=0.0, eps=1e-5
        ),
        train=LoopConfig(steps=steps, log_every=1, checkpoint_every=5),
    )


def smoke() -> Config:
    few = recipe(4, episodes=8, epochs=1, minibatches=2)
    return Config(
        preset="smoke",
        ppo=dataclasses.replace(few, max_new_tokens=8),
        evaluate=Evaluate(openings=8, answers=1),
    )


def tiny() -> Config:
    return Config(preset="tiny", ppo=recipe(16, episodes=32, epochs=2, minibatches=2))


def colab() -> Config:
    return Config(
        preset="colab",
        ppo=recipe(60, episodes=256, epochs=4, minibatches=4),
        evaluate=Evaluate(answers=8),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
