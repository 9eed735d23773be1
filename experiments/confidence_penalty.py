"""An ablation in thirty lines: finetuning with a confidence penalty (Pereyra et al. 2017).

    python -m experiments.confidence_penalty --init-from runs/pretrain/default --beta 0.1

The objective is the usual loss minus beta times the entropy of every prediction, so the model is
paid for staying unsure. Everything else is `experiments.sft`. Compare the two runs' `report.html`.
"""

import dataclasses
import functools

from experiments import sft
from gpt_jax.losses.lm import next_tokens, weighted_nll
from gpt_jax.ranges import NonNegativeFloat
from gpt_jax.train import command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(sft.Config):
    run_dir: str = "runs/confidence_penalty/default"
    beta: NonNegativeFloat = 0.1
    """Nats of loss that a nat of entropy is worth."""


def penalised_loss(model, learned, batch, key=None, frozen=None, *, beta: float):
    logprobs_BT, entropy_BT, weights_BT = next_tokens(model, learned, batch, key)
    nll, count, metrics = weighted_nll(logprobs_BT, weights_BT)
    total = nll - beta * (weights_BT * entropy_BT).sum()
    return total, count, metrics | {"objective": (total, count)}


def main(config: Config) -> None:
    sft.main(config, loss=functools.partial(penalised_loss, beta=config.beta))


presets = command.presets_as(Config, sft.presets)

if __name__ == "__main__":
    command.run(main, presets, __doc__)
