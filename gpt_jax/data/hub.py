"""Data sets by name: TFDS (`tfds:NAME[/CONFIG]`) and Hugging Face (`hf:[ORG/]NAME[/CONFIG]`)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from gpt_jax.data.extra import extra
from gpt_jax.data.tables import plain_row
from gpt_jax.errors import UserError

Located = tuple[str, Any]


def choose_split(spec: str, there: list[str], split: str) -> tuple[str, bool]:
    """Which split of a data set to read, and whether its rows are still to be divided.

    Args:
      spec: for the sentence.
      there: the names of its splits.
      split: train, test, all or held_out; see `sources.read_counted`.
    """
    wanted = {"all": ["train"], "held_out": ["test", "validation", "train"]}.get(
        split, [split, "train"]
    )
    part = next((name for name in wanted if name in there), None)
    if part is None:
        raise UserError(
            f"{spec}: it has no split `train`, only {', '.join(there)}; choose another data set."
        )
    return part, split in ("train", "test") and "test" not in there


# TFDS.


def tfds_builder(spec: str):
    """A TFDS data set that is already prepared, or can be, in array_record format."""
    import tensorflow_datasets as tfds

    name = spec.removeprefix("tfds:")
    try:
        return tfds.builder(name, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{spec}: TFDS knows no such data set ({reason}); check the name, and "
            f"import the module that defines it."
        ) from error


def read_tfds(spec: str, split: str) -> tuple[Iterator[Located], bool]:
    """The rows, and whether they are still to be divided."""
    builder = tfds_builder(spec)
    try:
        builder.download_and_prepare()
    except Exception as error:  # of the network, the disk, or a module that is missing
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{spec}: TFDS cannot prepare it here ({type(error).__name__}: {reason}); prepare it "
            "where that works, or name files."
        ) from error
    part, divide = choose_split(spec, list(builder.info.splits), split)
    rows = (_plain(row) for row in builder.as_data_source(part))
    return ((f"{spec}:{part}:{number}", row) for number, row in enumerate(rows)), divide


def _plain(row: dict) -> Any:
    from gpt_jax.data.microworld.builder import plain_row as plain

    try:
        return plain(row)
    except UserError as error:
        return error


# Hugging Face.


def hf_name(spec: str) -> tuple[str, str | None]:
    """The data set's name and configuration: ORG/NAME/CONFIG, ORG/NAME, NAME or a local folder."""
    name = spec.removeprefix("hf:")
    if os.path.isdir(name):
        return name, None
    parts = name.strip("/").split("/")
    if os.path.isdir("/".join(name.split("/")[:-1])):
        return name.rpartition("/")[0], parts[-1]
    if not name or not all(parts) or len(parts) > 3:
        raise UserError(f"{spec}: write hf:ORG/NAME, hf:ORG/NAME/CONFIG, or hf:FOLDER.")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def read_hf(spec: str, split: str) -> tuple[Iterator[Located], bool]:
    """The rows, streamed, and whether they are still to be divided."""
    datasets = extra("datasets", f"{spec} is read")
    name, config = hf_name(spec)
    try:
        there = datasets.get_dataset_split_names(name, config)
        part, divide = choose_split(spec, there, split)
        rows = datasets.load_dataset(name, config, split=part, streaming=True)
    except UserError:
        raise
    except Exception as error:  # the library's, of the network, or of the files
        raise _not_had(spec, error) from error
    return _hf_rows(spec, part, rows), divide


def _hf_rows(spec: str, part: str, rows: Any) -> Iterator[Located]:
    rows = iter(rows)
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise _not_had(spec, error) from error
        yield f"{spec}:{part}:{number}", plain_row(row)
        number += 1


def _not_had(spec: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"{spec}: `datasets` cannot read it here ({type(error).__name__}: {reason}); check the "
        "name and its configuration, or name files."
    )


def hf_fingerprint(spec: str) -> str:
    """A number for a version of a data set: its commit, or the state of its local files."""
    datasets = extra("datasets", f"{spec} is read")
    name, config = hf_name(spec)
    try:
        builder = datasets.load_dataset_builder(name, config)
    except Exception as error:
        raise _not_had(spec, error) from error
    return hashlib.sha256(f"{name} {config} {builder.hash}".encode()).hexdigest()[:16]
