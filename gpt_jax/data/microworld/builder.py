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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from gpt_jax.data.microworld import documents
from gpt_jax.data.microworld.facts import WorldSize
from gpt_jax.data.microworld.world import make_world
from gpt_jax.files import cache_folder

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
      label_noise: comparisons only; the share of pairs labelled the wrong way round.
    """

    kind: str = "text"
    seed: int = 0
    size: WorldSize = WorldSize()
    train: int = 0
    test: int = 0
    label_noise: float = 0.0


DEFAULTS = {
    "text": MicroworldConfig(name="text", kind="text", train=20000, test=600),
    "demonstrations": MicroworldConfig(
        name="demonstrations", kind="demonstrations", train=6000, test=500
    ),
    "comparisons": MicroworldConfig(name="comparisons", kind="comparisons", train=6400, test=800),
    "prompts": MicroworldConfig(name="prompts", kind="prompts", train=3000, test=560),
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
        options = {"label_noise": config.label_noise} if config.kind == "comparisons" else {}
        make = MAKERS[config.kind]
        yield from enumerate(make(make_world(config.seed, config.size), split, count, **options))


def load(
    config: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike | None = None,
    seed: int = 0,
    size: WorldSize = WorldSize(),
    count: int | None = None,
    label_noise: float = 0.0,
) -> list[dict]:
    """The rows of one config, built on first use.

    Args:
      config: text, demonstrations, comparisons or prompts.
      split: train or test.
      data_dir: where built data are kept; by default the user's cache folder or, where that
        cannot be written, a temporary one.
      count: how many training rows to make, if not the usual number.
      label_noise: comparisons only; see `documents.comparisons`.
    """
    usual = DEFAULTS[config]
    wanted = replace(
        usual, seed=seed, size=size, train=count or usual.train, label_noise=label_noise
    )
    # Rows depend on the settings and on this package's own text: both are in the folder's name.
    key = hashlib.sha256(f"{wanted} {source_digest()}".encode()).hexdigest()[:12]
    wanted = replace(wanted, name=f"{config}-{key}")
    home = Path(data_dir or cache_folder()) / "microworld" / wanted.name
    if not home.exists():
        try:
            _build(wanted, home)
        except OSError:
            if data_dir is not None:
                raise
            home = Path(tempfile.gettempdir()) / f"gpt_jax-{os.getuid()}" / wanted.name
            if not home.exists():
                _build(wanted, home)
    return plain_rows(tfds.builder_from_directory(home).as_data_source(split))


def _build(config: MicroworldConfig, home: Path) -> None:
    """Builds beside `home` and moves into place in one step, so that a reader never sees a part.

    If two processes build at once, both make the same rows and the first one's stay.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".building-") as workshop, _quiet():
        builder = Microworld(data_dir=workshop, config=config, file_format="array_record")
        builder.download_and_prepare()
        try:
            os.rename(builder.data_path, home)
        except OSError:
            if not home.exists():
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
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def plain_rows(source) -> list[dict]:
    """The rows of a TFDS data source with str for bytes, and lists for arrays."""
    return [{key: _plain(value) for key, value in row.items()} for row in source]


def _plain(value):
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):  # TFDS turns a sequence of dicts into a dict of sequences: undo it
        columns = {key: _plain(item) for key, item in value.items()}
        if all(isinstance(column, list) for column in columns.values()):
            return [
                dict(zip(columns, cells, strict=True))
                for cells in zip(*columns.values(), strict=True)
            ]
        return columns
    return value
