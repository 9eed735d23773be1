"""Addition from a verifier: GRPO takes a model from guessing to 90% of held-out sums.

    python -m experiments.verifiable

A small model first learns from demonstrations how an addition is worked out in two steps; which
digits belong together is drawn at random there (`gpt_jax/tasks/arithmetic.py`), so that it is right
about once in 15 times. Then it learns from its own samples and a reward of 1 for the exact sum, 0
for anything else: in most groups of completions of one sum a few are right by chance, and these are
all that it has to learn from. Held-out pairs are in no demonstration and no prompt.

Hardware and time (tiny, 0.1M parameters): 2.5 minutes of CPU time, 7 minutes on 2 CPU cores that
are shared with other work.
Expected (tiny): 9% of 812 held-out sums right before GRPO, 90% after 60 iterations, 95% after 150
(at temperature 1; of the most likely answers 5%, 99% and 100%).
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import grpo, pretrain
from gpt_jax import files
from gpt_jax.data.config import DataConfig
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pack_demonstrations
from gpt_jax.evaluate.accuracy import Accuracy
from gpt_jax.models.config import ModelConfig
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.rl.policy_stage import policy_stage
from gpt_jax.rl.scoring import own_scoring
from gpt_jax.tasks import arithmetic
from gpt_jax.tasks.arithmetic import ARITHMETIC
from gpt_jax.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from gpt_jax.train import command
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.gradient import language_stage
from gpt_jax.train.launch import look_at, run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.seeds_run import in_turn
from gpt_jax.train.served import open_run
from gpt_jax.train.stage import LoopConfig, Stage, TrainConfig

VOCABULARY = len(SPECIAL_TOKENS) + 256  # every digit is a token, and nothing is more than a letter
NEW_TOKENS = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(command.Common):
    run_dir: str = "runs/verifiable/default"
    sft: pretrain.Pretrain
    """How the demonstrations are learned, from nothing."""
    grpo: grpo.GRPO


def main(config: Config) -> dict:
    """Runs both stages and returns the held-out accuracies after each: the first seed's."""
    if config.seeds > 1:
        return in_turn("verifiable", config, main)[0]
    folder, mesh = Path(config.run_dir), make_mesh(config.mesh)
    texts = (arithmetic.right_answer(a, b) for a, b in arithmetic.pairs("train"))
    start = ModelFiles(config.sft.model, Tokenizer.train(texts, VOCABULARY))
    compare_config(folder, "verifiable", config)
    data = write_data(folder / "data", config.seed)
    shared = command.shared(config, data=data)
    first = pretrain.Config(**shared | {"run_dir": f"{folder}/sft"}, pretrain=config.sft)
    second = grpo.Config(
        **shared | {"run_dir": f"{folder}/grpo"}, init_from=f"{folder}/sft", grpo=config.grpo
    )
    look_at(reward_stage(second, start, mesh), config.seed, mesh)
    record_config(folder, "verifiable", config)  # only now: what cannot work is not held to it
    run_stage("sft", first, lambda c, mesh: format_stage(c, start, mesh))
    run_stage("grpo", second, lambda c, mesh: reward_stage(c, start, mesh))
    return measure(folder, accuracy_of(second, start, mesh), mesh)


def measure(folder: Path, accuracy: Accuracy, mesh: Mesh) -> dict:
    """The held-out accuracies of either stage's model, printed and as `results.json`."""
    with jax.set_mesh(mesh):
        results = {
            stage: accuracy.of(open_run(folder / stage, mesh=mesh).params)
            for stage in ("sft", "grpo")
        }
    text = json.dumps({"experiment": "verifiable"} | results, indent=2) + "\n"
    distributed.on_main(lambda: files.write_text(folder / "results.json", text))
    before, after = (100 * results[stage]["accuracy"] for stage in ("sft", "grpo"))
    print(
        f"held-out sums that are right: {before:.1f}% before GRPO, {after:.1f}% after; "
        f"{folder}/grpo/report.html has the curve"
    )
    return results


def write_data(folder: Path, seed: int) -> DataConfig:
    """Demonstrations and prompts as files that a reader can look at."""
    rng = np.random.default_rng(seed)
    specs = {}
    for split, prefix in (("train", ""), ("test", "test_")):
        asked = [{"prompt": f"{a}+{b}"} for a, b in arithmetic.pairs(split)]
        shown = [
            {"prompt": f"{a}+{b}", "completion": arithmetic.demonstration(a, b, rng)}
            for a, b in arithmetic.pairs(split) * 4
        ]
        for kind, rows in (("prompts", asked), ("demonstrations", shown)):
            path = folder / f"{prefix}{kind}.jsonl"
            text = "".join(json.dumps(row) + "\n" for row in rows)
            distributed.on_main(lambda path=path, text=text: files.write_text(path, text))
            specs[f"{prefix}{kind}"] = str(path)
    return DataConfig(**specs)


def format_stage(config: pretrain.Config, start: ModelFiles, mesh: Mesh) -> Stage:
    """A model from nothing, on the demonstrations."""
    (model, tokenizer), left_out = start, LeftOut()
    train, test = (
        pack_demonstrations(
            config.data.read("demonstrations", split), tokenizer, model.context_length, left_out
        )
        for split in ("train", "test")
    )
    return language_stage(
        config.pretrain,
        (train, test),
        model=model,
        mesh=mesh,
        seed=config.seed,
        tokenizer=tokenizer,
        first=pretrain.first(model),
        loss=pretrain.lm_loss,
        kinds=("demonstrations",),
        left_out=left_out,
    )


def reward_stage(config: grpo.Config, start: ModelFiles, mesh: Mesh) -> Stage:
    """GRPO against the verifier, measured on held-out pairs as it goes."""
    recipe = config.grpo
    scoring = own_scoring(None, ARITHMETIC.score, start, config.data.read("prompts", "train"))
    stage = policy_stage(config, recipe, grpo.METHOD, start, scoring, mesh)
    return dataclasses.replace(stage, evaluate=accuracy_of(config, start, mesh))


def accuracy_of(config: grpo.Config, start: ModelFiles, mesh: Mesh) -> Accuracy:
    """The measurement on held-out pairs."""
    recipe = config.grpo
    how = (recipe.max_new_tokens, recipe.temperature, config.seed)
    return Accuracy(ARITHMETIC, *start, mesh, *how)


MODEL = ModelConfig(
    vocab_size=VOCABULARY,
    context_length=128,
    width=64,
    layers=2,
    heads=2,
    mlp_width=192,
    positions="rope",
    norm="rms",
    mlp="swiglu",
    biases=False,
)


def recipe(steps: int, **sizes: int) -> grpo.GRPO:
    """What all presets share. The KL keeps alive what no reward has asked for yet: without it, the
    policy may be sure of carrying nothing where the last digits make 10 before it has tried."""
    return grpo.GRPO(
        epochs=1,
        max_new_tokens=NEW_TOKENS,
        missing_stop_score=None,
        kl_coef=0.04,
        optimizer=OptimizerConfig(
            learning_rate=3e-4, schedule="constant", weight_decay=0.0, eps=1e-5
        ),
        train=LoopConfig(
            steps=steps, log_every=1, evaluate_every=max(1, steps // 10), checkpoint_every=50
        ),
        **sizes,
    )


def smoke() -> Config:
    return Config(
        preset="smoke",
        sft=pretrain.Pretrain(
            model=dataclasses.replace(MODEL, width=32, layers=1, mlp_width=64),
            optimizer=OptimizerConfig(learning_rate=3e-3),
            train=TrainConfig(steps=20, batch_size=8, evaluate_every=20, checkpoint_every=10),
        ),
        grpo=recipe(4, episodes=16, group=4, minibatches=2),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        sft=pretrain.Pretrain(
            model=MODEL,
            optimizer=OptimizerConfig(kind="muon", learning_rate=6e-3),
            train=TrainConfig(steps=600, batch_size=16, evaluate_every=300, checkpoint_every=300),
        ),
        grpo=recipe(150, episodes=512, group=16, minibatches=2),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        sft=pretrain.Pretrain(
            model=dataclasses.replace(MODEL, width=128, layers=4, heads=4, mlp_width=384),
            optimizer=OptimizerConfig(learning_rate=2e-3),
            train=TrainConfig(steps=600, batch_size=64, evaluate_every=300, checkpoint_every=300),
        ),
        grpo=recipe(200, episodes=2048, group=32, minibatches=4),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
