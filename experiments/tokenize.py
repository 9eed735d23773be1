"""Text that does not fit in memory: tokenized once, into shards that training reads in place.

    python -m experiments.tokenize "wiki/*.zst" --output shards --tokenizer runs/pretrain/default
    python -m experiments.pretrain --preset tiny --data.text tokens:shards

The same command goes on where a killed one was. Uses all cores; what is held in memory does not
grow with the corpus. A tokenizer comes from a run folder (train one on a part of the corpus:
`experiments.pretrain --data.text part.jsonl --pretrain.train.steps 1`) or is a tokenizer.json.
Hardware and time: about 3 MB of text a second for each core.
Expected: `store.json`, `tokenizer.json` and the shards; see `gpt_jax/data/store.py`.
"""

import dataclasses
import sys
from pathlib import Path

import tyro

from gpt_jax import terminal
from gpt_jax.data import beam, tokenizing, unpacked
from gpt_jax.data.store import Store
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.progress import Progress

UNIT = 2**20  # bytes of packed input that the progress counts by


@dataclasses.dataclass(frozen=True)
class Config:
    """What to tokenize."""

    spec: tyro.conf.Positional[str]
    """A source of documents: files, patterns, tfds:NAME or hf:NAME; no mixture."""
    output: str
    """The folder of the shards."""
    tokenizer: str
    """A run folder or tokenizer file: that of the model to be trained."""
    skip_broken: bool = False
    """Leave broken rows out, and count them."""
    beam: str | None = None
    """Options of Apache Beam, one part for each file: "--runner=FlinkRunner --flink_master=...";
    needs the extra `beam`, in an environment of its own."""


def run(config: Config) -> Store:
    """Writes the shards, or goes on with them."""
    tokenizer = Tokenizer.load(config.tokenizer)
    if config.beam is not None:
        return beam.write_store(
            config.spec,
            Path(config.output),
            tokenizer,
            config.beam,
            skip_broken=config.skip_broken,
        )
    files = tokenizing.bytes_on_disk(config.spec)
    unpacked.bytes_read.clear()
    total = max(1, sum(files.values()) // UNIT)
    tokens = 0
    with Progress("tokenize (MiB)", total) as progress:

        def advance(count: int) -> None:
            nonlocal tokens
            tokens += count
            read = sum(unpacked.bytes_read.get(path, 0) for path in files) // UNIT
            progress.update(min(read, total), million_tokens=tokens / 1e6)

        made = tokenizing.write_store(
            config.spec,
            Path(config.output),
            tokenizer,
            skip_broken=config.skip_broken,
            progress=advance,
        )
        progress.update(total)
    return made


def main(config: Config) -> None:
    """Writes the shards and says what they hold."""
    made = run(config)
    for split in ("train", "test"):
        shards = made.shards(split)
        documents, tokens = sum(s.documents for s in shards), sum(s.tokens for s in shards)
        print(f"tokenize: {documents:,} documents, {tokens:,} tokens to {split}", flush=True)
    for reason, count in made.facts["left_out"].items():
        print(f"tokenize: left out {count:,} {reason}", flush=True)
    print(f"tokenize: train on them with --data.text tokens:{config.output}", flush=True)


if __name__ == "__main__":
    with terminal.ending_plainly():
        try:
            main(tyro.cli(Config, description=__doc__))
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on", file=sys.stderr)
            sys.exit(130)
