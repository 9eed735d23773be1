"""A model as a folder in Hugging Face's layout, which `transformers` and vLLM load.

    python -m experiments.convert runs/rlhf/tiny --output exported
    python -m experiments.convert runs/reward/default --output exported-reward
    python -m experiments.convert gguf:SmolLM2.gguf --output smollm2 --dtype bfloat16
    python -m experiments.convert runs/sft/lora --output adapters --adapters exported-base

The folder has config.json, generation_config.json, *.safetensors (several of at most 5 GB, with
their index, where one does not do), and the tokenizer with its chat template. A reward model
becomes a `...ForSequenceClassification`; one that reads likelihoods cannot. What is written is
what is read back: `--init-from exported` goes on with it.

Of a run that learned adapters the whole model is written, or with `--adapters` these alone, as
`peft` loads them: adapter_config.json and adapter_model.safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt_jax import terminal
from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.foreign.export import save_pretrained
from gpt_jax.models.foreign.peft import save_adapters
from gpt_jax.models.lora import ON_BACKBONE
from gpt_jax.models.weights import open_pretrained
from gpt_jax.train.adapters import read_adapter_file
from gpt_jax.train.checkpoint import load_params as load_params_alone
from gpt_jax.train.checkpoint import newest_checkpoint
from gpt_jax.train.origin import is_foreign, load_model, load_model_files, load_params
from gpt_jax.train.served import served_folder


def main(
    model: Annotated[str, tyro.conf.Positional],
    output: Path,
    stage: Literal["ppo", "sft", "base"] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    adapters: str | None = None,
) -> None:
    """Writes a model in Hugging Face's layout.

    Args:
        model: a run's folder or that of one stage; a Hugging Face folder, hf:ORG/NAME or gguf:FILE.
        output: the folder to write, which must be new or empty.
        stage: whose model of a whole run; by default the last that is there.
        dtype: of the weights.
        adapters: write the adapters of a run alone. What they stand on is called so in
            adapter_config.json: the backbone's folder in this layout, or ORG/NAME.
    """
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; give a new folder for --output")
    if adapters is not None:
        write_adapters(model, stage, output, adapters)
        return
    if is_foreign(model):
        (config, tokenizer), params = load_model_files(model), load_params(model)
    else:
        config, params, tokenizer = load_model(served_folder(Path(model), stage))
    if not isinstance(config, ModelConfig):
        raise UserError(
            f"{model} is a {type(config).__name__}, which no model of Hugging Face's computes; "
            "only decoders can be exported"
        )
    save_pretrained(
        output,
        config,
        params,
        stop_ids=tokenizer.stop_ids,
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.bos_id,
        dtype=dtype,
    )
    tokenizer.save(output)
    print(f"{output} can be loaded: transformers' from_pretrained({str(output)!r}), --init-from")


def write_adapters(model: str, stage: str | None, output: Path, base: str) -> None:
    """The adapters in a run's folder as `peft` loads them; see `main`."""
    folder = Path(model) if is_foreign(model) else served_folder(Path(model), stage)
    found = read_adapter_file(folder)
    if found is None:
        raise UserError(f"{folder} holds a whole model, no adapters; leave --adapters out")
    config, tokenizer = load_model_files(folder)
    item = "average" if (newest_checkpoint(folder) / "average").is_dir() else "params"
    params = load_params_alone(folder, item=item, part="policy")
    if params.keys() != {ON_BACKBONE}:
        raise UserError(
            f"{folder} is a reward model, whose head peft has no place for; leave --adapters out"
        )
    kind = open_pretrained(base).kind if Path(base).is_dir() else None
    save_adapters(output, config, params[ON_BACKBONE], found.lora, base, kind)
    tokenizer.save(output)
    print(f"{output} can be loaded: peft's PeftModel.from_pretrained(base, {str(output)!r})")


if __name__ == "__main__":
    with terminal.ending_plainly():
        tyro.cli(main, prog="python -m experiments.convert")
