"""Which data a run is trained and tested on."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pickle
from collections.abc import Iterator
from typing import Annotated

from gpt_jax.data import baselines, sources
from gpt_jax.data.split import common_rows
from gpt_jax.errors import UserError
from gpt_jax.ranges import Range, check_ranges

KINDS = ("text", "demonstrations", "comparisons", "prompts")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Each is `microworld` (the embedded data set), a local file (.txt, .json or .jsonl, plain, .gz
    or .xz; several are joined by commas) or `tfds:NAME[/CONFIG]`."""

    text: str = "microworld"
    """Documents to pretrain on."""
    demonstrations: str = "microworld"
    """Conversations to finetune on: `messages`, `prompt, completion` or `instruction, input,
    output`."""
    comparisons: str = "microworld"
    """Ranked answers for the reward model: `prompt, chosen, rejected`, `chosen, rejected`
    transcripts, or `prompt, completions, ranks`."""
    prompts: str | None = None
    """Prompts for PPO and for the final evaluation; by default those of the comparisons."""
    test_text: str | None = None
    """Held-out documents; by default the test split, or a twentieth of a file. Likewise below."""
    test_demonstrations: str | None = None
    """Held-out conversations."""
    test_comparisons: str | None = None
    """Held-out comparisons."""
    test_prompts: str | None = None
    """Prompts for the final evaluation."""
    skip_broken: bool = False
    """Leave broken rows out, and count them, where otherwise they end the run before it starts."""
    label_noise: Annotated[float, Range(0.0, 0.5, open_high=True)] = 0.0
    """Share of microworld's comparisons whose label is flipped (InstructGPT's labelers agreed on
    73%)."""

    def __post_init__(self):
        check_ranges(self)
        if self.label_noise and self.comparisons != sources.MICROWORLD:
            raise UserError(
                f"data.label_noise flips labels of the {sources.MICROWORLD}'s comparisons, not of "
                f"{self.comparisons}; leave it out"
            )

    @property
    def has_gold(self) -> bool:
        """Whether answers to the test prompts have a known gold score."""
        asked = self.test_prompts or self.prompts or self.test_comparisons or self.comparisons
        return asked == sources.MICROWORLD

    def read(self, kind: str, split: str) -> list[dict]:
        """All records of one kind (`text`, `demonstrations`, `comparisons`, `prompts`) and split
        (`train`, `test`) in canonical form; see `schemas`. The caller may change them.

        Raises:
          UserError: naming file and row, if anything is missing or broken; or if all comparisons
            are ties, from which nothing can be learned or measured.
        """
        rows = self._read(kind, split).rows
        if kind == "comparisons" and not baselines.pairs(rows):
            spec = (split == "test" and self.test_comparisons) or self.comparisons
            raise UserError(
                f"{spec}: all {len(rows)} comparisons of the {split} part are ties; give some in "
                "which one answer is better"
            )
        return rows

    def left_out(self, kind: str) -> collections.Counter:
        """How many rows of a kind were left out when they were read, for which reason."""
        apart = getattr(self, f"test_{kind}") or (kind == "prompts" and self.test_comparisons)
        # The parts of one source are both counted when it is read, whichever is asked for.
        splits = ("train", "test") if apart else ("train",)
        return sum((self._read(kind, split).left_out for split in splits), +_NONE)

    def _read(self, kind: str, split: str, *, records: bool = False) -> sources.Read:
        held_out = getattr(self, f"test_{kind}")
        own = getattr(self, kind)
        if kind == "prompts" and own is None and not (split == "test" and held_out):
            if self.comparisons == sources.MICROWORLD and not self.test_comparisons:
                own = sources.MICROWORLD
            else:
                rows, left_out = self._read("comparisons", split, records=True)
                rows = [{key: row[key] for key in ("prompt", "record")} for row in rows]
                return sources.Read(rows, left_out)
        if held_out:
            spec, part = (held_out, "held_out") if split == "test" else (own, "all")
        else:
            spec, part = own, split
        options = {"skip_broken": self.skip_broken, "records": records}
        if kind == "comparisons" and split == "train":
            options["label_noise"] = self.label_noise
        return pickle.loads(_cached(spec, kind, part, sources.source_fingerprint(spec), **options))

    def fingerprints(self) -> dict[str, str]:
        """{option: a number for what its source holds now} of every source that is named."""
        named = {name: getattr(self, name) for kind in KINDS for name in (kind, f"test_{kind}")}
        return {name: sources.source_fingerprint(spec) for name, spec in named.items() if spec}

    def tokenizer_texts(self) -> Iterator[str]:
        """What a tokenizer is trained on: the documents and, where a file of them is named, the
        demonstrations (Shakespeare's words would cut a modern conversation into crumbs)."""
        for row in self.read("text", "train"):
            yield row["text"]
        if self.demonstrations != sources.MICROWORLD:
            for row in self.read("demonstrations", "train"):
                yield from (message["content"] for message in row["messages"])

    def check(self) -> None:
        """Reads everything once, so that a broken row stops a run before it starts.

        Held-out rows that are trained on, too, are counted on standard error.
        """
        for kind in KINDS:
            train, test = (self.read(kind, split) for split in ("train", "test"))
            held_out = getattr(self, f"test_{kind}")
            if held_out and (known := common_rows(train, test)):
                sources.say_once(
                    f"{held_out}: {known:,} of its {len(test):,} held-out {kind} are "
                    "trained on, too"
                )


_NONE = collections.Counter()


@functools.lru_cache(maxsize=32)  # the stages of one program share what they read
def _cached(spec: str, kind: str, split: str, state: str, **options) -> bytes:
    """What was read, as bytes, so that nobody changes what the others get."""
    del state  # other bytes under the same name are other rows
    return pickle.dumps(sources.read_counted(spec, kind, split, **options))
