"""One microworld: its facts, the questions it can answer, and the judge of the answers."""

from functools import lru_cache

from gpt_jax.data.microworld import gold
from gpt_jax.data.microworld.facts import Facts, WorldSize, generator
from gpt_jax.data.microworld.language import RELATIONS
from gpt_jax.data.microworld.notes import state
from gpt_jax.data.microworld.question import Question
from gpt_jax.data.microworld.questions import Recogniser, draw
from gpt_jax.data.microworld.reading import ReplyReader
from gpt_jax.errors import UserError

LISTED_KINDS = ("fact", "small_talk")  # the others are made up anew each time
REMEMBERED = 2**15  # prompts whose question is kept: each is looked up for many answers


class World:
    """A world with ground truth; the same seed and size give the same world.

    Attributes:
      facts: entities, values, and what is true (see `Facts`).
    """

    def __init__(self, seed: int = 0, size: WorldSize = WorldSize()):
        self.facts = Facts(seed, size)
        self._recognise = Recogniser(self.facts)
        self._recognised = lru_cache(maxsize=REMEMBERED)(self._recognise)
        self._read = ReplyReader(self.facts)
        asked_in_texts = [
            q
            for q in self._recognise.listed.values()
            if not q.hops or (q.hops[0][0], q.hops[0][1]) in self.facts.true
        ]
        self._listed = {
            (kind, held_out): [
                q
                for q in asked_in_texts
                if q.kind == kind and (held_out == q.held_out or not q.hops)
            ]
            for kind in LISTED_KINDS
            for held_out in (False, True)
        }

    # Judging.

    def question(self, prompt: str) -> Question:
        """The question a prompt asks, read once and remembered.

        Raises:
          UserError: the world knows no such prompt.
        """
        question = self._recognised(prompt.strip())
        if question is None:
            raise UserError(
                f"The microworld knows no prompt {prompt!r}; use a prompt of its `prompts` config."
            )
        return question

    def answer(self, prompt: str) -> str:
        """The bare right answer, such as `Torby`, `8`, or the key word of a fitting reply."""
        return self.question(prompt).answer

    def gold_parts(self, prompt: str, completion: str, stopped: bool = True) -> gold.Parts:
        """The components of the gold score: the verdict, and how it is said."""
        return gold.judge(self._read, self.question(prompt), completion, stopped)

    def gold_score(self, prompt: str, completion: str, stopped: bool = True) -> float:
        """Ground-truth quality in [0, 1]; see `gold` for the formula.

        Args:
          completion: the reply's text, without special tokens.
          stopped: whether the reply ended with the stop token (not at the length limit).
        """
        return self.gold_parts(prompt, completion, stopped).score

    def verdict(self, prompt: str, completion: str) -> gold.Verdict:
        """Whether the completion is right, wrong, or says that it does not know."""
        return self.gold_parts(prompt, completion).verdict

    def is_correct(self, prompt: str, completion: str) -> bool:
        """Whether the completion states the right answer and no other."""
        return self.verdict(prompt, completion) == "right"

    # Asking.

    def listed(self, kind: str, held_out: bool) -> list[Question]:
        """All questions of a kind that can be listed: fact or small_talk.

        Small talk belongs to both sides of the split. Library questions are not listed.
        """
        return self._listed[kind, held_out]

    def draw(self, rng, kind: str, held_out: bool) -> Question:
        """A random question of a kind, from the one side of the split."""
        if kind in LISTED_KINDS:
            return rng.choice(self._listed[kind, held_out])
        while True:
            question = draw(self.facts, kind, rng)
            if question.held_out == held_out:
                return question

    # Material for retrieval.

    def library(self) -> list[str]:
        """One sentence for each long-tail fact, on people that no config's text ever names.

        Their questions have known answers (`answer`, `gold_score`), with the sentence in front
        (`Note: <sentence> <question>`) or without.
        """
        rng = generator(self.facts.seed, "library sentences")
        return [state(*pair, value, rng) for pair, value in self.facts.library.items()]

    def library_questions(self) -> list[Question]:
        """Every phrasing of every question about a fact of the library."""
        return [
            q
            for q in self._recognise.listed.values()
            if q.hops and q.hops[0][:2] in self.facts.library
        ]

    def statements(self, entity: str, relation: str) -> list[str]:
        """A fact in every phrasing."""
        value = self.facts.true[entity, relation]
        return [text.format(s=entity, v=value) for text in RELATIONS[relation].statements]


@lru_cache(maxsize=8)
def make_world(seed: int = 0, size: WorldSize = WorldSize()) -> World:
    """`World(seed, size)`, built once."""
    return World(seed, size)


def gold_score(prompt: str, completion: str, stopped: bool = True) -> float:
    """`World.gold_score` of the default world."""
    return make_world().gold_score(prompt, completion, stopped)
