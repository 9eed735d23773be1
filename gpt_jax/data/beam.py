"""Token shards by Apache Beam: the files of a source divided over the machines of a runner.

Every file of the source becomes one part of the store, so a corpus of many files is written by as
many workers at once. The workers read the source and write the store under the same names: on a
cluster both lie on a file system that all of them share. TFDS prepares its data sets the same way.
"""

from __future__ import annotations

import collections
import functools
import json
import shlex
from pathlib import Path

from gpt_jax import files
from gpt_jax.data import named_files, sources, store, tokenizing
from gpt_jax.data.extra import extra
from gpt_jax.data.parts import Part
from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer


def write_store(
    spec: str, folder: Path, tokenizer: Tokenizer, options: str, *, skip_broken: bool = False
) -> store.Store:
    """Writes the documents of a source as token shards, one part for each file.

    A run that was killed goes on: a part that is whole is not written again.

    Args:
      spec: of local files, perhaps a pattern.
      folder: of the store; the workers must be able to write it.
      tokenizer: of the model to be trained.
      options: of Beam's, as on a command line: "--runner=FlinkRunner --flink_master=HOST:PORT".
      skip_broken: leave broken rows out, and count them.

    Raises:
      UserError: Beam is missing, or as for `tokenizing.write_store`.
    """
    beam = extra("apache_beam", "--beam divides the work")
    pipeline_options = extra("apache_beam.options.pipeline_options", "--beam divides the work")
    if spec == sources.MICROWORLD or spec.startswith(("tfds:", "hf:")):
        raise UserError(f"{spec}: Beam divides files; name some, or leave out --beam")
    facts = tokenizing.begin(spec, folder, tokenizer, skip_broken)
    if facts["complete"]:
        return store.open_store(f"{store.PREFIX}{folder}")
    if facts["parts"]:
        raise UserError(f"{folder}: it was begun without --beam; go on without it")
    write = functools.partial(_write_part, folder=folder, skip_broken=skip_broken)
    numbered = list(enumerate(map(str, named_files.paths(spec))))
    flags = pipeline_options.PipelineOptions(shlex.split(options))
    with beam.Pipeline(options=flags) as pipeline:
        _ = pipeline | beam.Create(numbered) | beam.Reshuffle() | beam.Map(write)
    summaries = [_summary(folder, number) for number, _ in numbered]
    made = [json.loads(path.read_text()) for path in summaries]
    broken = next((part["broken"] for part in made if "broken" in part), None)
    for path in summaries:
        path.unlink()
    if broken:
        raise UserError(broken)
    left_out = sum((collections.Counter(part.pop("left_out")) for part in made), _NONE)
    tokenizing.finish(spec, folder, {**facts, "parts": made}, left_out)
    return store.open_store(f"{store.PREFIX}{folder}")


_NONE: collections.Counter = collections.Counter()


def _summary(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.part.json"


def _write_part(numbered: tuple[int, str], folder: Path, skip_broken: bool) -> None:
    """Writes one part, and beside it what store.json is to say of it; or why it cannot be."""
    number, name = numbered
    if _summary(folder, number).is_file():
        return
    facts = store.read_facts(folder)
    left_out: collections.Counter = collections.Counter()
    documents = sources.documents(name, left_out, skip_broken=skip_broken)
    part = Part(folder, number, facts["dtype"])
    try:
        for ids, draws in tokenizing.encoded((text for _, text in documents), _tokenizer(folder)):
            part.add(ids, draws)
        said = {**part.close(), "left_out": dict(+left_out)}
    except UserError as error:  # in the sentence, not in a worker's traceback
        said = {"broken": str(error)}
    files.write_text(_summary(folder, number), json.dumps(said))


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)
