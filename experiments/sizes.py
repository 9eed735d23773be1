"""Models of several sizes, each with the recipe of `experiments.rlhf` up to its reward model.

What is asked of every size is another experiment's (`judge_generator`, `instructgpt`); here is what
they share. Each size has a whole run's folder, so that an experiment finds what another has made
there, and `experiments.rlhf` goes on with it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh

from experiments import rlhf
from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.parallel import distributed
from gpt_jax.train.record import compare_config, record_config
from gpt_jax.train.seconds import timed

HEAD = 32  # the width of a head, at least
STAGES = ("pretrain", "sft", "label", "reward", "ppo")


def resized(model: ModelConfig, size: str) -> ModelConfig:
    """The model of a preset at another size; all else is as it was.

    Args:
      model: of the preset.
      size: WIDTHxLAYERS, such as 96x4.

    Raises:
      UserError: if it is no size.
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)
    if found is None:
        raise UserError(f"the size {size!r} is none; give WIDTHxLAYERS, such as 96x4")
    width, layers = int(found[1]), int(found[2])
    if width % 8:
        raise UserError(f"the size {size} has a width that 8 does not divide; round it")
    ratio = model.mlp_width / model.width if model.mlp_width else 4.0
    sizes = {"width": width, "layers": layers, "heads": max(1, width // HEAD)}
    return dataclasses.replace(model, **sizes, mlp_width=8 * round(ratio * width / 8))


def config_of(config: rlhf.Config, models: str, size: str) -> rlhf.Config:
    """The whole run of one size, in a folder of its own.

    Args:
      config: with the recipe, and the seed.
      models: the folder of all of them.
      size: WIDTHxLAYERS.
    """
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(rlhf.Config)}
    model = resized(config.pretrain.model, size)
    fields["pretrain"] = dataclasses.replace(config.pretrain, model=model)
    where = f"{models}/seed{config.seed}/{size}"
    return rlhf.Config(**fields | {"run_dir": where, "seeds": 1, "sweep": ()})


def check(config: rlhf.Config, sizes: Sequence[str], name: str) -> None:
    """Raises a UserError if there is no size, one twice, or one that is none, or if the experiment
    of this name is asked to begin elsewhere than at nothing, with labels that are not its own."""
    if not sizes or len(set(sizes)) < len(sizes):
        raise UserError(f"sizes is {' '.join(sizes) or 'empty'}; give each once, and at least one")
    for size in sizes:
        resized(config.pretrain.model, size)
    if config.init_from is not None or config.data.comparisons or config.rounds > 1:
        raise UserError(
            f"{name} pretrains models and labels their own answers, once; leave --init-from, "
            "--data.comparisons and --rounds out"
        )
    if config.lora.rank:
        raise UserError(f"{name} trains whole models; leave --lora.rank out")


def train(config: rlhf.Config, mesh: Mesh, until: str = "reward") -> None:
    """Runs what is not finished of the stages of one size, once all of them have been looked at.

    Args:
      config: of that size.
      mesh: of the devices.
      until: the last stage.
    """
    folder = Path(config.run_dir)
    compare_config(folder, "rlhf", config)
    wanted = STAGES[: STAGES.index(until) + 1]
    configs = {name: c for name, c in rlhf.stage_configs(config).items() if name in wanted}
    unfinished = [name for name in configs if not rlhf.is_done(name, configs[name])]
    rlhf.refuse_stale(configs, unfinished)
    runs = rlhf.look_ahead(config, configs, unfinished, mesh)
    record_config(folder, "rlhf", config)
    for name in unfinished:
        distributed.say(f"{folder.name}: {name}")
        timed(folder, name, runs.pop(name))
