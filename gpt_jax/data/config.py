"""Which data a run is trained and tested on."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pickle
from collections.abc import Iterator

from gpt_jax.data import baselines, mixture, sources, store
from gpt_jax.data.split import common_rows
from gpt_jax.errors import UserError

KINDS = ("text", "demonstrations", "comparisons", "feedback", "prompts")
OPTIONAL = ("comparisons", "feedback")  # without a source named they are made, or not read


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Each is `microworld` (the embedded data set), local files (.txt, .jsonl, .json, .csv, .tsv,
    .parquet, plain, .gz, .xz or .zst; a pattern, or several joined by commas), `tfds:NAME[/CONFIG]`
    or `hf:[ORG/]NAME[/CONFIG]`; or several of these by weight: "books.txt=0.3,wiki/*.jsonl=0.7"."""

    text: str = "microworld"
    """Documents to pretrain on; also `tokens:FOLDER`, shards that experiments.tokenize wrote."""
    demonstrations: str = "microworld"
    """Conversations to finetune on: `messages`, `prompt, completion` or `instruction, input,
    output`."""
    comparisons: str | None = None
    """Ranked answers for the reward model: `prompt, chosen, rejected`, `chosen, rejected`
    transcripts, or `prompt, completions, ranks`. None: where all stages are run, the finetuned
    model's own answers, labeled; for the reward model alone, ready-made ones of the microworld."""
    feedback: str | None = None
    """Single answers that are marked good or bad, for KTO: `prompt, completion, label`. None: the
    comparisons, taken apart."""
    prompts: str | None = None
    """Prompts for labeling, PPO and the final evaluation; by default those of the comparisons that
    are named or, without any, of the demonstrations that are."""
    test_text: str | None = None
    """Held-out documents; by default the test split, or a twentieth of a file. Likewise below."""
    test_demonstrations: str | None = None
    """Held-out conversations."""
    test_comparisons: str | None = None
    """Held-out comparisons."""
    test_feedback: str | None = None
    """Held-out marked answers."""
    test_prompts: str | None = None
    """Prompts for the final evaluation."""
    skip_broken: bool = False
    """Leave broken rows out, and count them, where otherwise they end the run before it starts."""

    def __post_init__(self):
        for kind in OPTIONAL:
            held_out = getattr(self, f"test_{kind}")
            if held_out and not getattr(self, kind):
                raise UserError(
                    f"data.test_{kind} is {held_out}, but no data.{kind} to train on are named; "
                    "name both"
                )

    def in_microworld(self, kind: str, split: str) -> bool:
        """Whether the rows are the microworld's, so that answers have a known gold score."""
        kind = self._where(kind, split)
        held_out = getattr(self, f"test_{kind}") if split == "test" else None
        return (held_out or getattr(self, kind) or sources.MICROWORLD) == sources.MICROWORLD

    def _where(self, kind: str, split: str) -> str:
        """The kind of the rows that are read: prompts may be those of other rows."""
        named = self.prompts or (split == "test" and self.test_prompts)
        if kind == "prompts" and not named:
            if self.comparisons and (
                self.comparisons != sources.MICROWORLD or self.test_comparisons
            ):
                return "comparisons"
            if not self.comparisons and self.demonstrations != sources.MICROWORLD:
                return "demonstrations"
        return kind

    def read(self, kind: str, split: str) -> list[dict]:
        """All records of one kind (one of `KINDS`) and split (`train`, `test`) in canonical form;
        see `schemas`. The caller may change them.

        Raises:
          UserError: naming file and row, if anything is missing or broken; or if all comparisons
            are ties, from which nothing can be learned or measured.
        """
        rows = self._read(kind, split).rows
        if kind == "comparisons" and not baselines.pairs(rows):
            named = self.comparisons or sources.MICROWORLD
            spec = (split == "test" and self.test_comparisons) or named
            raise UserError(
                f"{spec}: all {len(rows)} comparisons of the {split} part are ties; give some in "
                "which one answer is better"
            )
        return rows

    def left_out(self, kind: str) -> collections.Counter:
        """How many rows of a kind were left out when they were read, for which reason."""
        wheres = [self._where(kind, split) for split in ("train", "test")]
        apart = wheres[0] != wheres[1] or getattr(self, f"test_{wheres[1]}")
        # The parts of one source are both counted when it is read, whichever is asked for; those
        # of token shards when they were written.
        splits = ("train", "test") if apart else ("train",)
        return sum((self._left_out(kind, split) for split in splits), +_NONE)

    def _left_out(self, kind: str, split: str) -> collections.Counter:
        where = self._where(kind, split)
        spec, part = self.named(where, split)
        specs = [source.spec for source in mixture.parse(spec)]
        shards = [spec for spec in specs if store.is_store(spec)]
        if not shards:
            return self._read(kind, split).left_out
        others = [self.read_source(spec, where, part) for spec in specs if spec not in shards]
        counted = [collections.Counter(store.open_store(spec).facts["left_out"]) for spec in shards]
        return sum([*counted, *(read.left_out for read in others)], +_NONE)

    def _read(self, kind: str, split: str, *, records: bool = False) -> sources.Read:
        where = self._where(kind, split)
        if where != kind:
            rows, left_out = self._read(where, split, records=True)
            return sources.Read([_prompt_of(row) for row in rows], left_out)
        spec, part = self.named(kind, split)
        return self.read_source(spec, kind, part, records=records)

    def named(self, kind: str, split: str) -> tuple[str, sources.Split]:
        """The source that the rows of a kind and split come from, and which part of it they are."""
        held_out = getattr(self, f"test_{kind}")
        own = getattr(self, kind) or sources.MICROWORLD
        if held_out:
            return (held_out, "held_out") if split == "test" else (own, "all")
        return own, split

    def read_source(
        self, spec: str, kind: str, part: sources.Split, *, records: bool = False
    ) -> sources.Read:
        """The rows of one part of a source, and what was left out."""
        options = {"skip_broken": self.skip_broken, "records": records}
        return pickle.loads(_cached(spec, kind, part, sources.source_fingerprint(spec), **options))

    def fingerprints(self) -> dict[str, str]:
        """{option: a number for what its source holds now} of every source that is named."""
        named = {name: getattr(self, name) for kind in KINDS for name in (kind, f"test_{kind}")}
        return {name: sources.source_fingerprint(spec) for name, spec in named.items() if spec}

    def tokenizer_texts(self) -> Iterator[str]:
        """What a tokenizer is trained on: the documents and, where a file of them is named, the
        demonstrations (Shakespeare's words would cut a modern conversation into crumbs)."""
        spec, part = self.named("text", "train")
        weighted = mixture.parse(spec)
        texts = [
            [row["text"] for row in self.read_source(source.spec, "text", part).rows]
            for source in weighted
        ]
        if len(texts) == 1:
            yield from texts[0]
        else:
            yield from mixture.texts_by_share(texts, [source.share for source in weighted])
        if self.demonstrations != sources.MICROWORLD:
            for row in self.read("demonstrations", "train"):
                yield from (message["content"] for message in row["messages"])

    def check(self) -> None:
        """Reads everything once, so that a broken row stops a run before it starts.

        Held-out rows that are trained on, too, are counted on standard error.
        """
        for kind in KINDS:
            if kind in OPTIONAL and not getattr(self, kind):
                continue
            spec, _ = self.named(kind, "train")
            if any(store.is_store(source.spec) for source in mixture.parse(spec)):
                sources.source_fingerprint(spec)  # which opens all that are named in it
                self.read(kind, "test")
                continue  # they were checked row by row when they were written
            train, test = (self.read(kind, split) for split in ("train", "test"))
            held_out = getattr(self, f"test_{kind}")
            if held_out and (known := common_rows(train, test)):
                sources.say_once(
                    f"{held_out}: {known:,} of its {len(test):,} held-out {kind} are "
                    "trained on, too"
                )


_NONE = collections.Counter()


def _prompt_of(row: dict) -> dict:
    """The prompt of a comparison or of a demonstration, with its record."""
    prompt = row["prompt"] if "prompt" in row else row["messages"][:-1]
    return {"prompt": prompt, "record": row["record"]}


@functools.lru_cache(maxsize=32)  # the stages of one program share what they read
def _cached(spec: str, kind: str, split: str, state: str, **options) -> bytes:
    """What was read, as bytes, so that nobody changes what the others get."""
    del state  # other bytes under the same name are other rows
    return pickle.dumps(sources.read_counted(spec, kind, split, **options))
