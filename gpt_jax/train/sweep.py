"""`--sweep`: every combination of some settings, each a run of its own in one folder.

    python -m experiments.ppo --sweep ppo.kl_coef=0.01,0.05,0.2 --sweep ppo.epochs=1,4 --seeds 4

    runs/ppo/default/                                 config.json, sweep.json, report.html
    runs/ppo/default/ppo.kl_coef=0.01,ppo.epochs=1/   of every point a run folder

The points run in turn, in one process. What two of them differ in only by arrays of the state (the
learning rate, the KL coefficient, the seed) gives the same program, which the compilation cache
holds from the first one on. A point that fails leaves the others alone; the same command goes on
with what is not finished, and more values may be added.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import re
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.parallel import distributed
from gpt_jax.readable import clock
from gpt_jax.report.sweep import FILE, publish_sweep
from gpt_jax.train.record import WHERE, record_config

# They say where or how often, not what: a point cannot differ in them alone.
FIXED = WHERE | {"preset", "seeds", "tensorboard", "wandb"}


class Point(NamedTuple):
    """One combination.

    Attributes:
      name: of its folder: the settings as they were given.
      settings: {dotted name: value}.
      config: of the experiment.
    """

    name: str
    settings: dict[str, Any]
    config: Any


def points_of(config: Any) -> list[Point]:
    """The points of `config.sweep`, in the order in which the values are given.

    Raises:
      UserError: if a setting or a value is none; every point's configuration is checked whole.
    """
    grid = dict(map(lambda spec: _parse(config, spec), config.sweep))
    if len(grid) < len(config.sweep):
        raise UserError("--sweep names a setting twice; give all of its values at once")
    points = []
    for combination in itertools.product(*grid.values()):
        settings = {key: value for key, (_, value) in zip(grid, combination, strict=True)}
        given = ",".join(f"{key}={text}" for key, (text, _) in zip(grid, combination, strict=True))
        name = re.sub(r"[^\w.,=+-]", "_", given)
        run_dir = str(Path(config.run_dir) / name)
        try:
            changed = with_settings(config, settings | {"run_dir": run_dir, "sweep": ()})
        except UserError as error:
            raise UserError(f"--sweep {given}: {error}") from error
        points.append(Point(name, settings, changed))
    if len({point.name for point in points}) < len(points):
        raise UserError("--sweep has a value twice; give each once")
    return points


def _parse(config: Any, spec: str) -> tuple[str, list[tuple[str, Any]]]:
    """`KEY=A,B` -> the dotted name, and (text, value) of each."""
    key, equals, texts = spec.partition("=")
    key = key.strip().lstrip("-").replace("-", "_")
    values = [text.strip() for text in texts.split(",")]
    if not equals or not all(values):
        raise UserError(f"--sweep {spec}: give SETTING=VALUE,VALUE, as in ppo.kl_coef=0.01,0.1")
    hints = dict(settings_of(config))
    if key not in hints:
        if key.split(".")[0] in FIXED:
            raise UserError(f"--sweep {spec}: {key} is the same for all points; give another one")
        # The last name may be right where the way to it is not.
        near = [name for name in hints if name.rpartition(".")[2] == key.rpartition(".")[2]]
        near = near or difflib.get_close_matches(key, hints, n=1, cutoff=0.0)
        raise UserError(f"--sweep {spec}: there is no setting {key}; the nearest is {near[0]}")
    return key, [(text, _value(spec, key, hints[key], text)) for text in values]


def settings_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of every setting that a sweep may change."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{prefix}{field.name}.")
        elif prefix or field.name not in FIXED:
            yield prefix + field.name, hints[field.name]


def _value(spec: str, key: str, hint: Any, text: str) -> Any:
    """The value that the command line would take."""
    said = io.StringIO()
    text = text.capitalize() if text in ("true", "false") else text
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(hint, args=[text])
    except SystemExit:
        raise UserError(
            f"--sweep {spec}: {text!r} is no value of {key}; give {_in_words(hint)}"
        ) from None


def _in_words(hint: Any) -> str:
    """What a setting of this type takes."""
    if get_origin(hint) is Annotated:
        return _in_words(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_in_words, get_args(hint)))
    names = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        types.NoneType: "None",
    }
    return names.get(hint, "a text")


def with_settings(config: Any, settings: dict[str, Any]) -> Any:
    """The configuration with other values of these dotted names, checked when all are set."""
    inner: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        name, _, rest = key.partition(".")
        inner.setdefault(name, {})[rest] = value
    changes = {
        name: new[""] if "" in new else with_settings(getattr(config, name), new)
        for name, new in inner.items()
    }
    return dataclasses.replace(config, **changes)


def run_sweep(main: Callable[[Any], Any], config: Any) -> None:
    """Runs all points of a configuration's sweep, and writes and prints their table.

    Args:
      main: of the experiment.
      config: whose `sweep` is not empty.

    Raises:
      UserError: before anything runs, if a point cannot be; at the end, if some have failed.
    """
    points, folder = points_of(config), Path(config.run_dir)
    for kind in ("checkpoints", "seeds"):
        if (folder / kind).is_dir():
            raise UserError(f"{folder} is a run, and no sweep; choose another --run-dir")
    record_config(folder, "sweep", config)
    failed, seconds = {}, []
    for number, point in enumerate(points):
        left = sum(seconds) / len(seconds) * (len(points) - number) if seconds else None
        about = f"; about {clock(left)} left" if left is not None else ""
        distributed.say(f"sweep: point {number + 1} of {len(points)}, {point.name}{about}")
        started = time.monotonic()
        try:
            main(point.config)
        except UserError as error:
            failed[point.name] = str(error)
        except Exception as error:  # whatever one point raises must not cost the others
            traceback.print_exc()
            failed[point.name] = f"{type(error).__name__}: {error}"
        if point.name in failed:
            distributed.say(f"sweep: {point.name} failed: {failed[point.name]}")
        seconds.append(time.monotonic() - started)
        _write(folder, points, failed)
    distributed.on_main(lambda: publish_sweep(folder))
    if failed:
        raise UserError(
            f"{len(failed)} of {len(points)} points failed ({'; '.join(failed)}); the same command "
            "tries them again"
        )


def _write(folder: Path, points: Sequence[Point], failed: dict[str, str]) -> None:
    """Writes `sweep.json`: the settings of every point, and why it failed, if it did."""
    rows = [{"name": p.name, "settings": p.settings, "failed": failed.get(p.name)} for p in points]
    text = json.dumps({"points": rows}, indent=2) + "\n"
    distributed.on_main(lambda: files.write_text(folder / FILE, text))
