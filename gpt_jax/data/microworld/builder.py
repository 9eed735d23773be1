"""The microworld as a TFDS data set, in array_record format: TensorFlow is never imported.

    builder = Microworld(data_dir="...", config="text", file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source("train")  # strings come back as bytes

`load` does all of that, and returns plain Python rows.
"""

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from gpt_jax.data import ranking
from gpt_jax.data.microworld import documents
from gpt_jax.data.microworld.facts import WorldSize
from gpt_jax.data.microworld.world import make_world
from gpt_jax.data.values import text_of
from gpt_jax.errors import UserError
from gpt_jax.files import cache_folder, spare_folder

SUMS = "SHA256SUMS"  # of the files of a built folder, and in it

MAKERS = {
    "text": documents.texts,
    "demonstrations": documents.demonstrations,
    "comparisons": documents.comparisons,
    "prompts": documents.prompts,
}


@dataclass(kw_only=True)
class MicroworldConfig(tfds.core.BuilderConfig):
    """One of the four kinds of rows, from one world.

    Attributes:
      kind: text, demonstrations, comparisons or prompts.
      seed, size: the world.
      train, test: how many rows.
    """

    kind: str = "text"
    seed: int = 0
    size: WorldSize = WorldSize()
    train: int = 0
    test: int = 0


DEFAULTS = {
    "text": MicroworldConfig(name="text", kind="text", train=36000, test=600),
    "demonstrations": MicroworldConfig(
        name="demonstrations", kind="demonstrations", train=10000, test=500
    ),
    "comparisons": MicroworldConfig(name="comparisons", kind="comparisons", train=6400, test=800),
    "prompts": MicroworldConfig(name="prompts", kind="prompts", train=8000, test=560),
}


class Microworld(tfds.core.GeneratorBasedBuilder):
    """A small synthetic world with ground truth: facts, sums, dialogues, and judged replies."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = list(DEFAULTS.values())

    def _info(self) -> tfds.core.DatasetInfo:
        text, sequence = tfds.features.Text(), tfds.features.Sequence
        features = {
            "text": {"text": text},
            "demonstrations": {"messages": sequence({"role": text, "content": text})},
            "comparisons": {
                "prompt": text,
                "completions": sequence(text),
                "stopped": sequence(np.bool_),
                "ranks": sequence(np.int32),
                "chosen": text,
                "chosen_stopped": np.bool_,
                "rejected": text,
                "rejected_stopped": np.bool_,
            },
            "prompts": {"prompt": text},
        }[self.builder_config.kind]
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        config = self.builder_config
        return {
            "train": self._generate_examples("train", config.train),
            "test": self._generate_examples("test", config.test),
        }

    def _generate_examples(self, split: str, count: int):
        config = self.builder_config
        make = MAKERS[config.kind]
        yield from enumerate(make(make_world(config.seed, config.size), split, count))


def load(
    config: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike | None = None,
    seed: int = 0,
    size: WorldSize = WorldSize(),
    count: int | None = None,
) -> list[dict]:
    """The rows of one config, built on first use.

    Args:
      config: text, demonstrations, comparisons or prompts.
      split: train or test.
      data_dir: where built data are kept; by default the user's cache folder or, where that
        cannot be written, a temporary one.
      count: how many training rows to make, if not the usual number.
    """
    usual = DEFAULTS[config]
    wanted = replace(usual, seed=seed, size=size, train=count or usual.train)
    # Rows depend on the settings and on this package's own text: both are in the folder's name.
    key = hashlib.sha256(f"{wanted} {source_digest()}".encode()).hexdigest()[:12]
    wanted = replace(wanted, name=f"{config}-{key}")
    folders = [lambda: Path(data_dir)] if data_dir else [cache_folder, spare_folder]
    source = tfds.builder_from_directory(_built(wanted, folders)).as_data_source(split)
    return [plain_row(row) for row in source]


def _built(config: MicroworldConfig, folders: Sequence[Callable[[], Path]]) -> Path:
    """Where the rows lie, in the first folder that has them whole or in which they can be built."""
    for folder in folders:
        try:
            home = folder() / "microworld" / config.name
            if not _is_whole(home):
                _build(config, home)
            return home
        except OSError as error:
            failed = error
    raise UserError(
        f"the microworld cannot be written to a folder ({failed}); set XDG_CACHE_HOME to one in "
        "which there is room"
    ) from failed


def _is_whole(home: Path) -> bool:
    """Whether a built folder is as it was made: cleaners and full disks may damage a cache."""
    try:
        return (home / SUMS).read_text() == _sums(home)
    except OSError:
        return False


def _sums(home: Path) -> str:
    paths = sorted(path for path in home.iterdir() if path.name != SUMS)
    digests = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return "".join(f"{digest}  {path.name}\n" for digest, path in zip(digests, paths))


def _build(config: MicroworldConfig, home: Path) -> None:
    """Builds beside `home` and moves into place in one step, so that a reader never sees a part.

    If two processes build at once, both make the same rows and the first one's stay. What is
    damaged is replaced.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".building-") as workshop, _quiet():
        builder = Microworld(data_dir=workshop, config=config, file_format="array_record")
        builder.download_and_prepare()
        built = Path(builder.data_path)
        (built / SUMS).write_text(_sums(built))
        if home.exists() and not _is_whole(home):
            os.rename(home, Path(workshop) / "damaged")
        try:
            os.rename(built, home)
        except OSError:
            if not _is_whole(home):
                raise


@contextlib.contextmanager
def _quiet():
    """TFDS announces paths and draws bars for a build of a second: silence."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    logging.set_verbosity(verbosity)


def source_digest() -> str:
    """A number for the program that makes the rows."""
    sources = [*sorted(Path(__file__).parent.glob("*.py")), Path(ranking.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def plain_row(row: dict) -> dict:
    """A row of a TFDS data source with str for bytes, and lists for arrays.

    Raises:
      UserError: some bytes in it are no text.
    """
    return {key: _plain(value) for key, value in row.items()}


def _plain(value):
    if isinstance(value, bytes):
        return text_of(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):  # TFDS turns a sequence of dicts into a dict of sequences: undo it
        columns = {key: _plain(item) for key, item in value.items()}
        lengths = {len(c) if isinstance(c, list) else None for c in columns.values()}
        if len(lengths) == 1 and None not in lengths:
            cells = zip(*columns.values(), strict=True)
            return [dict(zip(columns, cell, strict=True)) for cell in cells]
        return columns
    return value
