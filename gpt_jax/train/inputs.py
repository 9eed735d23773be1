"""`inputs.json`: what a run folder was made from, so that it is noticed when that has changed."""

from __future__ import annotations

import json
from pathlib import Path

from gpt_jax import files
from gpt_jax.data import local_files, sources
from gpt_jax.errors import UserError
from gpt_jax.parallel import distributed
from gpt_jax.train.command import Common
from gpt_jax.train.origin import fingerprint, is_foreign

# The fields that name a model, or an earlier stage's folder; `reward_models` are another's.
FOLDERS = ("init_from", "policy_from", "teacher_from")


def label_files(folder: str | Path) -> tuple[Path, Path]:
    """The comparisons that a folder in `labels_from` holds: to train on, and held-out ones."""
    return Path(folder) / "comparisons.jsonl", Path(folder) / "held_out.jsonl"


def inputs_of(config: Common) -> dict[str, str]:
    """{what: fingerprint} of the data and of the earlier stages that a run is made from."""
    found = {f"data.{name}": number for name, number in config.data.fingerprints().items()}
    named = getattr(config, "sources", dict)()  # rows that are no part of `data`
    found |= {name: sources.source_fingerprint(spec) for name, spec in named.items()}
    folders = {field: getattr(config, field, None) for field in FOLDERS}
    for field, where in (folders | getattr(config, "reward_models", dict)()).items():
        if where is not None and (is_foreign(where) or (Path(where) / "checkpoints").is_dir()):
            found[field] = fingerprint(where)
    for folder in getattr(config, "labels_from", ()):
        paths = label_files(folder)
        if all(path.is_file() for path in paths):
            numbers = map(local_files.fingerprint, paths)
            found[f"the labels in {Path(folder).name}"] = "-".join(numbers)
    return found


def compare_inputs(folder: Path, config: Common) -> None:
    """Checks that a run folder, if it is one, was made from the very same inputs; writes nothing.

    Raises:
      UserError: naming the first that has changed.
    """
    distributed.on_main(lambda: _compare(folder, inputs_of(config), config))


def record_inputs(folder: Path, config: Common) -> None:
    """Writes `inputs.json`, once `compare_inputs` has nothing against it."""

    def compare_and_write() -> None:
        fresh = inputs_of(config)
        _compare(folder, fresh, config)
        files.write_text(folder / "inputs.json", json.dumps(fresh, indent=2) + "\n")

    distributed.on_main(compare_and_write)


def _compare(folder: Path, fresh: dict[str, str], config: Common) -> None:
    path = folder / "inputs.json"
    if not path.is_file():
        return
    old = files.read_json(path, "choose another --run-dir")
    for name, number in fresh.items():
        if old.get(name, number) != number:
            where = f"{name} {getattr(config, name)}" if hasattr(config, name) else name
            raise UserError(
                f"{folder} was made from another state of {where}, which has changed since; "
                "choose another --run-dir, or remove this folder to make it anew"
            )
