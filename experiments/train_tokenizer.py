"""A tokenizer alone, trained on weighted sources: what each language costs, before any model.

    python -m experiments.train_tokenizer "english.txt=0.5,chinese.jsonl=0.5" --vocab-size 16384 \\
        --output runs/tokenizer/bilingual --beside runs/pretrain/default

Prints the bytes per token of each source's held-out documents, beside those of another tokenizer:
the more, the shorter is the text to the model. `experiments.tokenize --tokenizer FOLDER` takes it.
A byte-level BPE sees every source in its share of the bytes (see `gpt_jax/data/mixture.py`).
Hardware and time: half a minute for 30 MB of text on 2 CPU cores; all of it is held in memory.
"""

import dataclasses
from pathlib import Path

import rich
import tyro
from rich.table import Table

from gpt_jax import terminal
from gpt_jax.data import inspection, mixture
from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError
from gpt_jax.ranges import Positive, check_ranges
from gpt_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Config:
    """What to learn from."""

    spec: tyro.conf.Positional[str]
    """Sources of documents, perhaps with weights."""
    output: str
    """The folder to write `tokenizer.json` into."""
    vocab_size: Positive = 16_384
    """Tokens to learn, the special ones and the 256 bytes included."""
    beside: str | None = None
    """A run folder or tokenizer file to compare with."""
    skip_broken: bool = False
    """Leave broken rows out, and count them."""

    def __post_init__(self):
        check_ranges(self)


def main(config: Config) -> None:
    """Trains, writes and compares."""
    data = DataConfig(text=config.spec, skip_broken=config.skip_broken)
    other = Tokenizer.load(config.beside) if config.beside else None
    if (Path(config.output) / "tokenizer.json").exists():
        raise UserError(f"{config.output}: it has a tokenizer already; choose another --output")
    tokenizer = Tokenizer.train(data.tokenizer_texts(), config.vocab_size)
    tokenizer.save(Path(config.output))
    table = Table(title=f"{tokenizer.vocab_size:,} tokens; bytes per token, held out")
    for name in ("source", "share", "this", *(["beside"] if other else [])):
        table.add_column(name)
    for part in mixture.parse(config.spec):
        texts = [row["text"] for row in data.read_source(part.spec, "text", "test").rows]
        found = [inspection.bytes_per_token(texts, some) for some in (tokenizer, other) if some]
        table.add_row(part.spec, f"{part.share:.1%}", *(f"{value:.3f}" for value in found))
    rich.print(table)


if __name__ == "__main__":
    with terminal.ending_plainly():
        main(tyro.cli(Config, description=__doc__))
