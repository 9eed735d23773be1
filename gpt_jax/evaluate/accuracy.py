"""How many held-out rows of a task the policy answers rightly, measured while it learns."""

from __future__ import annotations

from typing import NamedTuple

from jax.sharding import Mesh

from gpt_jax.evaluate.task import evaluate_task
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.models.contract import Model, Params
from gpt_jax.tasks.task import Task
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.state import TrainState


class Accuracy(NamedTuple):
    """`accuracy(state, frozen)`, for `Stage.evaluate`: the mean score of the held-out rows.

    The draws are the same whenever it is asked, and so is the program, which is compiled once.

    Attributes:
      task: with a score; its rows of "test".
      model, tokenizer: of the policy.
      mesh: where the parameters lie.
      max_new_tokens: of an answer.
      temperature: at which the policy learns.
      seed: of the draws.
    """

    task: Task
    model: Model
    tokenizer: Tokenizer
    mesh: Mesh
    max_new_tokens: int
    temperature: float
    seed: int

    def __call__(self, state: TrainState, frozen: dict) -> dict[str, float]:
        """What `of` says of a stage's policy."""
        del frozen
        return self.of(state.params["policy"])

    def of(self, params: Params) -> dict[str, float]:
        """`accuracy` of one draw for each row, and `greedy_accuracy` of the most likely tokens."""
        rows, asked, found = self.task.rows("test"), {"policy": self._asked(params)}, {}
        for name, temperature in (("accuracy", self.temperature), ("greedy_accuracy", 0.0)):
            answers = evaluate_task(asked, self.task, self._sampling(temperature), rows)["policy"]
            found[name] = float(answers.scores_AN.mean())
        return found

    def look(self, state: TrainState, frozen: dict) -> None:
        """Traces it on shapes, so that what cannot work ends here."""
        del frozen
        prompts = [self.task.prompt(row) for row in self.task.rows("test")]
        self._asked(state.params["policy"]).look(prompts, self._sampling(self.temperature))

    def _asked(self, params: Params) -> TextModel:
        return TextModel(self.model, params, self.tokenizer, mesh=self.mesh)

    def _sampling(self, temperature: float) -> Sampling:
        new = self.max_new_tokens
        return Sampling(max_new_tokens=new, temperature=temperature, seed=self.seed)
