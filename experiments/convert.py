"""A model as a folder in Hugging Face's layout, which `transformers` and vLLM load.

    python -m experiments.convert runs/rlhf/tiny --output exported
    python -m experiments.convert runs/reward/default --output exported-reward
    python -m experiments.convert gguf:SmolLM2.gguf --output smollm2 --dtype bfloat16

The folder has config.json, generation_config.json, *.safetensors (several of at most 5 GB, with
their index, where one does not do), and the tokenizer with its chat template. A reward model
becomes a `...ForSequenceClassification`; one that reads likelihoods cannot. What is written is
what is read back: `--init-from exported` goes on with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt_jax import terminal
from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.foreign.export import save_pretrained
from gpt_jax.train.origin import is_foreign, load_model, load_model_files, load_params
from gpt_jax.train.served import served_folder


def main(
    model: Annotated[str, tyro.conf.Positional],
    output: Path,
    stage: Literal["ppo", "sft", "base"] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Writes a model in Hugging Face's layout.

    Args:
        model: a run's folder or that of one stage; a Hugging Face folder, hf:ORG/NAME or gguf:FILE.
        output: the folder to write, which must be new or empty.
        stage: whose model of a whole run; by default the last that is there.
        dtype: of the weights.
    """
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; give a new folder for --output")
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


if __name__ == "__main__":
    with terminal.ending_plainly():
        tyro.cli(main, prog="python -m experiments.convert")
