"""How the published models were trained, as their papers' tables say it.

Sources: GPT-1 (Radford et al. 2018, section 4.1), GPT-3 (Brown et al. 2020, table 2.1 and appendix
B), LLaMA (Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models", table 2 and
section 2.3). GPT-2's paper states its batch (512 rows of 1,024 tokens) and no more: its learning
rate "was manually tuned", so the numbers below are GPT-3's of the same size where it has one, and
`stated` says what the paper itself does not.

GPT-3's batch grows from 32,000 tokens to the value here over the first 4 to 12 billion tokens.
Warm-up and decay of GPT-3 are in tokens: 375 million, and a cosine to 10% over 260 billion, after
which the rate stays. LLaMA's warm-up is 2,000 steps, its cosine ends at 10% with the last token.
"""

import dataclasses

BILLION = 10**9


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The settings of one training run.

    Attributes:
      learning_rate: the highest.
      batch_tokens: tokens of one step, once the batch has grown.
      total_tokens: that were trained on.
      warmup_tokens: over which the learning rate rises from 0.
      decay_tokens: by which the cosine has reached its end.
      final_share: of the highest learning rate, at the cosine's end.
      context: tokens of a row.
      weight_decay: decoupled (Loshchilov & Hutter 2019).
      betas: Adam's.
      eps: Adam's.
      clip: the largest norm of the gradient; None: not clipped.
      dropout: of the residual stream, the attention and the embedding alike.
      stated: whether the paper states the learning rate, warm-up, decay and Adam's numbers.
    """

    learning_rate: float
    batch_tokens: int
    total_tokens: int
    warmup_tokens: int
    decay_tokens: int
    context: int
    final_share: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    clip: float | None = 1.0
    dropout: float = 0.0
    stated: bool = True

    @property
    def batch_rows(self) -> int:
        """Rows of one step: the papers round their tokens, and a mesh wants what it divides, so it
        is the nearest multiple of 128, or of 64 where that is fewer."""
        rows = self.batch_tokens / self.context
        return max(64, 128 * round(rows / 128))

    def steps(self, tokens: int) -> int:
        """In how many steps so many tokens are read."""
        return round(tokens / (self.batch_rows * self.context))


def _gpt1() -> Recipe:
    """64 rows of 512 tokens; 2,000 steps of warm-up, then a cosine to 0 over 100 epochs.

    The paper counts epochs over BooksCorpus, whose 985 million words (Zhu et al. 2015, table 2) are
    taken for as many tokens.
    """
    batch, total = 64 * 512, 100 * 985 * 10**6
    return Recipe(
        2.5e-4,
        batch,
        total,
        2000 * batch,
        total,
        512,
        final_share=0.0,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        clip=None,
        dropout=0.1,
    )


def _gpt2(learning_rate: float) -> Recipe:
    """WebText is 40 GB, about 9 billion tokens; how often it was read is not stated."""
    batch = 512 * 1024
    total = 100 * BILLION
    return Recipe(learning_rate, batch, total, 375 * 10**6, total, 1024, dropout=0.1, stated=False)


def _gpt3(learning_rate: float, batch_tokens: int) -> Recipe:
    return Recipe(
        learning_rate, batch_tokens, 300 * BILLION, 375 * 10**6, 260 * BILLION, context=2048
    )


def _llama1(learning_rate: float, total_tokens: int) -> Recipe:
    batch = 4 * 10**6
    return Recipe(learning_rate, batch, total_tokens, 2000 * batch, total_tokens, context=2048)


# By the names of `presets.PRESETS`.
RECIPES: dict[str, Recipe] = {
    "gpt1": _gpt1(),
    "gpt2": _gpt2(6e-4),
    "gpt2_medium": _gpt2(3e-4),
    "gpt2_large": _gpt2(2.5e-4),
    "gpt2_xl": _gpt2(2e-4),
    "gpt3_125m": _gpt3(6e-4, 500_000),
    "gpt3_350m": _gpt3(3e-4, 500_000),
    "gpt3_760m": _gpt3(2.5e-4, 500_000),
    "gpt3_1.3b": _gpt3(2e-4, 1_000_000),
    "gpt3_2.7b": _gpt3(1.6e-4, 1_000_000),
    "gpt3_6.7b": _gpt3(1.2e-4, 2_000_000),
    "gpt3_13b": _gpt3(1e-4, 2_000_000),
    "gpt3_175b": _gpt3(0.6e-4, 3_200_000),
    "llama1_7b": _llama1(3e-4, 1000 * BILLION),
    "llama1_13b": _llama1(3e-4, 1000 * BILLION),
    "llama1_33b": _llama1(1.5e-4, 1400 * BILLION),
    "llama1_65b": _llama1(1.5e-4, 1400 * BILLION),
}
