"""`adapter.json`: what the adapters in a run folder stand on."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Literal, NamedTuple

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.models.lora import LoraConfig
from gpt_jax.parallel import distributed

FILE = "adapter.json"
MEND = "restore it, or train that stage again"

FrozenDtype = Literal["bfloat16", "int8", "int4"] | None


class AdapterFile(NamedTuple):
    """Attributes:
    lora: which adapters they are.
    backbone: the model that they stand on, as it was named: a run folder, a Hugging Face folder,
      hf:ORG/NAME or gguf:FILE.
    fingerprint: of it, as `origin.fingerprint` gives it.
    frozen_dtype: how its matrices were kept while the adapters were learned.
    """

    lora: LoraConfig
    backbone: str
    fingerprint: str
    frozen_dtype: FrozenDtype = None


def write_adapter_file(folder: Path, adapters: AdapterFile) -> None:
    """Writes `adapter.json`; a backbone in a folder is named as seen from this one, too, so that
    both can be moved together."""
    fields = adapters._asdict() | {"lora": dataclasses.asdict(adapters.lora)}
    if Path(adapters.backbone).is_dir():
        fields["beside"] = os.path.relpath(Path(adapters.backbone).resolve(), folder.resolve())
    text = json.dumps(fields, indent=2) + "\n"
    distributed.on_main(lambda: files.write_text(folder / FILE, text))


def read_adapter_file(folder: str | Path) -> AdapterFile | None:
    """What `write_adapter_file` wrote; None where a folder's parameters are a whole model.

    Raises:
      UserError: if the file is damaged.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    fields = files.read_json(path, MEND)
    beside = fields.pop("beside", None)
    try:
        found = AdapterFile(**fields | {"lora": LoraConfig(**fields["lora"])})
    except (TypeError, KeyError, UserError) as error:
        raise UserError(f"{path} is damaged ({error}); {MEND}") from error
    if isinstance(beside, str) and (Path(folder) / beside).is_dir():
        return found._replace(backbone=os.path.normpath(Path(folder) / beside))
    return found
