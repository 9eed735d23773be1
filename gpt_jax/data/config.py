"""Which data a run is trained and tested on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from gpt_jax.data import sources


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
    test_comparisons: str | None = None
    """Held-out comparisons; by default the test split, or a twentieth of a file."""
    prompts: str | None = None
    """Prompts for PPO and for the final evaluation; by default those of the comparisons."""
    label_noise: float = 0.0
    """Share of microworld's comparisons whose label is flipped (InstructGPT's labelers agreed on
    73%)."""

    @property
    def has_gold(self) -> bool:
        """Whether answers to the prompts have a known gold score."""
        return (self.prompts or self.comparisons) == sources.MICROWORLD

    def read(self, kind: str, split: str) -> list[dict]:
        """All records of one kind (`text`, `demonstrations`, `comparisons`, `prompts`) and split
        (`train`, `test`) in canonical form; see `schemas`.

        Raises:
          UserError: naming file and row, if anything is missing or broken.
        """
        if kind == "comparisons" and split == "test" and self.test_comparisons:
            return _read(self.test_comparisons, kind, "all")
        if kind == "prompts" and self.prompts is None and self.comparisons != sources.MICROWORLD:
            return [{"prompt": row["prompt"]} for row in self.read("comparisons", split)]
        spec = getattr(self, kind) or sources.MICROWORLD
        if kind == "comparisons" and self.test_comparisons:
            return _read(spec, kind, "all")
        return _read(spec, kind, split, self.label_noise if split == "train" else 0.0)

    def tokenizer_texts(self) -> Iterator[str]:
        """What a tokenizer is trained on: the documents and, where a file of them is named, the
        demonstrations (Shakespeare's words would cut a modern conversation into crumbs)."""
        for row in self.read("text", "train"):
            yield row["text"]
        if self.demonstrations != sources.MICROWORLD:
            for row in self.read("demonstrations", "train"):
                yield from (message["content"] for message in row["messages"])

    def check(self) -> None:
        """Reads everything once, so that a broken row stops a run before it starts."""
        for kind in ("text", "demonstrations", "comparisons", "prompts"):
            for split in ("train", "test"):
                self.read(kind, split)


@functools.cache  # the stages of one program share what they read
def _read(spec: str, kind: str, split: str, label_noise: float = 0.0) -> list[dict]:
    return sources.read(spec, kind, split, label_noise=label_noise)
