"""What a model writes while it trains: a few openings, gone on with at a few of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jax.sharding import Mesh

from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.models.contract import Model, Params
from gpt_jax.text.tokenizer import Tokenizer

NEW_TOKENS = 32
TEMPERATURE = 0.7


def sample_steps(steps: int) -> set[int]:
    """After which of its steps a stage writes: the first, a tenth, half, and all of them."""
    return {max(1, round(steps * part)) for part in (0.0, 0.1, 0.5, 1.0)}


class Samples(NamedTuple):
    """`samples(params)`: how a model goes on with its openings.

    The draws are the same at every step, and so is the program, which is compiled once. On a mesh,
    all processes call it.

    Attributes:
      model, tokenizer: a base model's, which is asked for documents.
      openings: texts of at most half the context.
      mesh: where the parameters lie.
      seed: of the draws.
    """

    model: Model
    tokenizer: Tokenizer
    openings: Sequence[str]
    mesh: Mesh
    seed: int

    def __call__(self, params: Params) -> dict[str, str]:
        """{opening: what the model writes after it}."""
        completions = self._asked(params).complete(self.openings, self._sampling())
        return {o: c.text for o, c in zip(self.openings, completions, strict=True)}

    def look(self, params: Params) -> None:
        """Traces it on shapes, so that what cannot work ends here."""
        self._asked(params).look(self.openings, self._sampling())

    def _asked(self, params: Params) -> TextModel:
        return TextModel(self.model, params, self.tokenizer, "document", self.mesh)

    def _sampling(self) -> Sampling:
        new = min(NEW_TOKENS, max(1, self.model.context_length // 2))
        return Sampling(max_new_tokens=new, temperature=TEMPERATURE, seed=self.seed)
