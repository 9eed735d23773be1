"""The same model in `transformers`, which tools compare ours with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt_jax.errors import UserError


def in_transformers(where: str) -> tuple[Any, Any]:
    """A model in float32 with its tokenizer, in PyTorch on the CPU.

    Args:
      where: a Hugging Face folder, `hf:ORG/NAME` or `gguf:FILE`.

    Raises:
      UserError: if transformers or PyTorch is missing.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise UserError(
            f"this compares with transformers, which is missing ({error}): "
            'pip install "gpt_jax[parity,pretrained]"'
        ) from error
    options = {}
    if where.startswith("gguf:"):
        path = Path(where.removeprefix("gguf:")).expanduser()
        where, options = str(path.parent), {"gguf_file": path.name}
    where = where.removeprefix("hf:")
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **options)
    return model.eval(), AutoTokenizer.from_pretrained(where, **options)
