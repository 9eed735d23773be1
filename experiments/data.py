"""What will be trained on: rows, lengths, what is left out and why, duplicates, examples.

    python -m experiments.data chats.jsonl --tokenizer runs/pretrain/default
    python -m experiments.data "books.txt=0.3,wiki/*.jsonl=0.7" --against gsm8k/test.jsonl
    python -m experiments.data pairs.jsonl.gz --kind comparisons

SPEC is whatever `--data.text` and the others take. The examples show what is learned from in green,
what is only context dimmed, and of comparisons the better answer in green, the others in red.
Hardware and time: any machine; some seconds for ten thousand rows.
"""

import dataclasses
import itertools
import statistics
from typing import Annotated, Literal

import numpy as np
import rich
import tyro
from rich.markup import escape
from rich.table import Table

from gpt_jax import terminal
from gpt_jax.data import baselines, duplicates, inspection, mixture, sources, store
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.ranges import Range, check_ranges
from gpt_jax.text.tokenizer import Tokenizer

COLOURS = {"learned": "green", "context": "dim", "better": "green", "worse": "red"}
STRETCHES, SHOWN = 8, 300  # of an example, and characters of each


@dataclasses.dataclass(frozen=True)
class Config:
    """What to look at."""

    spec: tyro.conf.Positional[str]
    """A source or a mixture of some."""
    kind: Literal["text", "demonstrations", "comparisons", "prompts"] | None = None
    """What its rows are read as; by default what the first ones look like."""
    tokenizer: str | None = None
    """A run folder or tokenizer file to count tokens with; without one, words are counted."""
    length: Annotated[int, Range(8, 2**31 - 1)] = 1024
    """Tokens of a row, for what is cut to fit and how well rows are filled."""
    against: str | None = None
    """An evaluation set, of any layout, that should have nothing in common with the source."""
    skip_broken: bool = False
    """Leave broken rows out, and count them."""

    def __post_init__(self):
        check_ranges(self)


def show(config: Config) -> None:
    """Prints all that can be said of a source."""
    tokenizer = Tokenizer.load(config.tokenizer) if config.tokenizer else None
    parts = mixture.parse(config.spec)
    if any(store.is_store(part.spec) for part in parts):
        if len(parts) > 1:
            raise UserError(f"{config.spec}: look at one folder of token shards at a time")
        return show_shards(config.spec)
    kind = config.kind or sources.kind_of(config.spec)
    found = sources.read_counted(config.spec, kind, "all", skip_broken=config.skip_broken)
    table = Table(title=f"{config.spec}, as {kind}", show_header=False)
    for part in parts if len(parts) > 1 else ():
        table.add_row("share", f"{part.share:.1%} {escape(part.spec)}")
    table.add_row("rows", f"{len(found.rows):,}")
    for reason, count in found.left_out.items():
        table.add_row("left out", f"{count:,} {reason}")
    unit = "tokens" if tokenizer else "words"
    sizes = inspection.lengths(found.rows, tokenizer)
    table.add_row(unit, f"{sizes.sum():,} in all, {statistics.fmean(sizes):.1f} a row")
    at = np.percentile(sizes, inspection.PERCENTILES).astype(int)
    named = zip(inspection.PERCENTILES, at, strict=True)
    table.add_row(f"{unit}, percentiles", "  ".join(f"{p}%: {n:,}" for p, n in named))
    if tokenizer:
        packed = inspection.packing(found.rows, tokenizer, config.length)
        table.add_row(
            f"laid out by {config.length:,}",
            f"{packed.rows:,} rows, {packed.filled:.1%} filled, {packed.learned:.1%} learned from",
        )
        for sentence in packed.left_out.sentences():
            table.add_row("to fit", sentence)
    texts = [inspection.text_of(row) for row in found.rows]
    table.add_row("exact duplicates", f"{duplicates.exact(texts):,}")
    table.add_row("near duplicates", f"{duplicates.near(texts):,} (equal ones among them)")
    if config.against:
        table.add_row("in both", escape(against(texts, config.against)))
    if kind == "comparisons":
        for name, value in compared(config.spec, config.skip_broken):
            table.add_row(name, value)
    rich.print(table)
    for number, row in enumerate(sample_rows(found.rows, 5, seed=0), 1):
        rich.print(f"[bold]Example {number}[/bold]")
        rich.print(painted(row, tokenizer))


def against(texts: list[str], spec: str) -> str:
    """What a source has in common with an evaluation set, in words."""
    found = duplicates.overlap(texts, sources.raw_rows(spec))
    places = [place.removeprefix(spec).lstrip(": ") for place in found.found[:3]]
    named = f" ({', '.join(places)}{', ...' * (len(found.found) > 3)})" if places else ""
    return (
        f"{spec}: {len(found.found):,} of {found.rows:,} rows{named} share {duplicates.OVERLAP} "
        f"words in a row with {found.hits:,} rows of the source; {found.short:,} are too short"
    )


def compared(spec: str, skip_broken: bool) -> list[tuple[str, str]]:
    """What needs no language model, and a reward model must beat, on the held-out part."""
    train, test = (
        sources.read(spec, "comparisons", split, skip_broken=skip_broken)
        for split in ("train", "test")
    )
    pairs = f"of {len(baselines.pairs(test)):,} held-out pairs"
    return [
        ("the longer answer wins", f"{baselines.longer_answer(test):.3f} {pairs}"),
        ("bag of words", f"{baselines.bag_of_words(train, test):.3f} {pairs}"),
    ]


def show_shards(spec: str) -> None:
    """Prints what token shards hold, once every byte has been compared with its checksum."""
    shards = store.open_store(spec)
    shards.verify()
    rich.print(f"{spec}: made from {escape(shards.facts['source'])}; all checksums are right")
    for split in ("train", "test"):
        some = shards.shards(split)
        tokens, documents = (sum(getattr(s, n) for s in some) for n in ("tokens", "documents"))
        rich.print(f"{split}: {tokens:,} tokens of {documents:,} documents in {len(some)} parts")
    for reason, count in shards.facts["left_out"].items():
        rich.print(f"left out {count:,} {reason}")


def painted(row: dict, tokenizer: Tokenizer | None) -> str:
    """An example, of which every stretch has the colour of how it counts."""
    some = list(itertools.islice(inspection.spans(row, tokenizer), STRETCHES + 1))
    text = ""
    for said, how in some[:STRETCHES]:
        cut = said if len(said) <= SHOWN else f"{said[:SHOWN]} ... "
        text += f"[{COLOURS[how]}]{escape(cut)}[/{COLOURS[how]}]"
    return text + " ..." * (len(some) > STRETCHES)


if __name__ == "__main__":
    with terminal.ending_plainly():
        show(tyro.cli(Config, description=__doc__))
