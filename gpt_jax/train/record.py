"""`config.json`: the settings a run folder was made with, and which of them may still change."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.parallel import distributed

# Where a run is started, which is not written down, since a folder may be moved, and a replay that
# changes nothing.
WHERE = {"run_dir", "coordinator", "processes", "process_id", "replay", "sweep"}
# How a run is made, not what comes out: these may differ from one start to the next. They are
# matched by the last name of a setting, or by a name with all that is below it.
HOW = WHERE | {
    "tensorboard",
    "wandb",
    "mesh",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
    "most_skipped",
    "offload_frozen",
    "init_from",  # folders too may be moved; `inputs` compares what they hold
    "reward_from",
    "policy_from",
    "labels_from",
    "labeler",  # the answers stay; `experiments.label` itself sees whether to rank them anew
}
GROWS = "train.steps"  # the end of the name of a setting that may become larger


def compare_config(folder: Path, name: str, config: Any) -> bool:
    """Checks that a run folder, if it is one, was made with this configuration; writes nothing.

    Args:
      folder: the run folder.
      name: of the stage.
      config: of the experiment.

    Returns:
      True if the number of steps is larger than it was, so that there is something to do again.

    Raises:
      UserError: naming the first setting that differs, since mixing two configurations in one
        folder would make neither reproducible.
    """
    grown = False

    def compare() -> None:
        nonlocal grown
        old = _read(folder / "config.json")
        if old is not None:
            one = {"seeds": 1}  # which is not written
            grown = _grown(folder, one | old, one | _settings(name, config))

    distributed.on_main(compare)
    return bool(distributed.agree(grown))


def record_config(folder: Path, name: str, config: Any) -> None:
    """Writes `config.json`, once `compare_config` has nothing against it."""
    compare_config(folder, name, config)
    text = json.dumps(_settings(name, config), indent=2) + "\n"
    distributed.on_main(lambda: files.write_text(folder / "config.json", text))


def _settings(name: str, config: Any) -> dict:
    settings = dataclasses.asdict(config)
    if settings["seeds"] == 1:  # as in folders that are older than this setting
        del settings["seeds"]
    settings = {"stage": name} | {k: v for k, v in settings.items() if k not in WHERE}
    return json.loads(json.dumps(settings))  # as they will be read: a tuple is a list there


def _read(path: Path) -> dict | None:
    return files.read_json(path, "choose another --run-dir") if path.is_file() else None


def _grown(folder: Path, old: dict, new: dict) -> bool:
    """Whether steps have grown; raises for anything else that differs."""
    grown = False
    for name, (before, now) in differences(old, new).items():
        if name.endswith(GROWS) and before and now > before:
            distributed.say(f"{folder}: {name} grows from {before:,} to {now:,}")
            grown = True
            continue
        raise UserError(
            f"{folder} was made with another configuration ({name} was {before} and is now {now}); "
            "choose another --run-dir, or give the options it was made with"
        )
    return grown


def differences(old: Any, new: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """{setting: (before, now)} of all settings that change what comes out."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = {}
        for key in [*new, *(k for k in old if k not in new)]:
            if key not in HOW:
                child = f"{name}.{key}".lstrip(".")
                found |= differences(old.get(key), new.get(key), child)
        return found
    return {} if old == new else {name: (old, new)}
