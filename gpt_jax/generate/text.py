"""Text in, text out: `complete(prompts, sampling)`, whatever the model.

    model = open_run("runs/rlhf/tiny")  # gpt_jax.train.served
    model.complete(["Who is Mira's friend?"], Sampling(temperature=0.0))[0].text

A prompt may be any text, and there may be any number of them: they are sorted by length and
answered some at a time, in few shapes, so that few programs are compiled. What comes back is in
their order, and each draw is named by the prompt's own tokens and the number of the sample, so that
a completion is the same alone or among others.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax import keys
from gpt_jax.data import pipeline
from gpt_jax.data.batches import pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import generate, most_likely
from gpt_jax.generate.sampling import Sampling
from gpt_jax.models.contract import Model, Params
from gpt_jax.parallel import distributed, rules
from gpt_jax.text import chat
from gpt_jax.text.chat import Message
from gpt_jax.text.tokenizer import Tokenizer

BATCH = 128  # rows of one call, at the most
NARROWEST = 32  # prompts are padded to this, or to this times a power of two

Prompt = str | Sequence[Message]
Layout = Literal["chat", "document"]


class Completion(NamedTuple):
    """What a model wrote after a prompt.

    Attributes:
      text: without special tokens, and without the stop string and all behind it.
      tokens: the ids that make up the text, and the stop token if that came.
      logprobs: of each token, under the distribution with the temperature applied (at temperature
        0 without), before any filter.
      finish_reason: "stop" for the stop token, "stop_string", or "length".
      prompt_tokens: how many the model read.
      left_out: how many of the oldest turns of the prompt did not fit the context.
      alternatives: for each token the (id, log-probability) of the most likely ones, as many as
        `Sampling.logprobs`.
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length", "stop_string"]
    prompt_tokens: int
    left_out: int = 0
    alternatives: Sequence[list[tuple[int, float]]] = ()

    @property
    def stopped(self) -> bool:
        """Whether the model ended by itself, not at the length limit."""
        return self.finish_reason != "length"


Complete = Callable[[Sequence[Prompt], Sampling], list[Completion]]  # what prompting is written for


class TextModel(NamedTuple):
    """A model that can be asked for text.

    Attributes:
      config, params: the model.
      tokenizer: its own.
      layout: how it is asked. "chat": in turns, a string being one turn of the user. "document":
        for a model that never saw the tokens of a chat; turns become lines with names, and end
        where the user's next line would begin, and a string is a text to go on with.
      mesh: where the parameters lie; None: on one device.
    """

    config: Model
    params: Params
    tokenizer: Tokenizer
    layout: Layout = "chat"
    mesh: Mesh | None = None

    def complete(
        self, prompts: Sequence[Prompt], sampling: Sampling = Sampling()
    ) -> list[Completion]:
        """`sampling.n` completions of every prompt, one prompt after another.

        Args:
          prompts: texts, or messages that end with the user's. Of messages that do not fit the
            context the oldest turns are left out.
          sampling: how to draw.

        Raises:
          UserError: naming the first prompt that does not fit, and its length.
        """
        if sampling.remembers:
            raise UserError(
                "penalties and logit_bias depend on what was drawn; ask an `Engine` of this model"
            )
        requests, batches = self._batches(prompts, sampling)
        with self.on_mesh():
            # All are under way before the first is waited for.
            drawn = [self._draw([requests[i] for i in batch], sampling) for batch in batches]
            drawn = distributed.fetch(drawn)
        found = collections.defaultdict(list)
        for batch, (completion_BC, logprobs_BC, stopped_B, top) in zip(batches, drawn, strict=True):
            each = len(requests[batch[0]].names)
            for row in range(each * len(batch)):
                i = batch[row // each]
                length = int((completion_BC.segment_ids[row] > 0).sum())
                ids = completion_BC.ids[row, :length].tolist()
                logprobs = logprobs_BC[row, :length].tolist()
                tops = zip(*(x[row, :length].tolist() for x in top), strict=True)
                tops = [list(zip(*place, strict=True)) for place in tops]
                stopped = bool(stopped_B[row])
                one = self.completion(requests[i].asked, ids, logprobs, tops, stopped)
                found[i].append(one)
        # What was drawn twice comes twice.
        return [one for i, request in enumerate(requests) for one in found[i][: len(request.names)]]

    def look(self, prompts: Sequence[Prompt], sampling: Sampling = Sampling()) -> None:
        """Traces what `complete` would run, with parameters of which only the shapes are known.

        Raises:
          UserError: as `complete` would.
        """
        requests, batches = self._batches(prompts, sampling)

        def draw(params: Params) -> list[tuple]:
            model = self._replace(params=params)
            return [model._draw([requests[i] for i in batch], sampling) for batch in batches]

        with self.on_mesh():
            jax.eval_shape(draw, self.params)

    def _batches(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> tuple[list[Draws], list[list[int]]]:
        """What is to be drawn, and in which order it is drawn together."""
        asked = [self.asked(prompt, i, sampling) for i, prompt in enumerate(prompts)]
        requests = list(draws(asked, sampling.n))
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].asked.ids))
        # A power of two of prompts, and no more than BATCH rows where that can be.
        size = 1 << ((BATCH // len(requests[0].names)).bit_length() - 1) if requests else BATCH
        # The last batch draws some again, which is done before another shape has been compiled.
        starts = [min(i, max(0, len(order) - size)) for i in range(0, len(order), size)]
        return requests, [order[start : start + size] for start in starts]

    def on_mesh(self) -> contextlib.AbstractContextManager:
        """The mesh that the parameters lie on, for `with`."""
        return jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext()

    def asked(
        self, prompt: Prompt, number: int, sampling: Sampling, places: int | None = None
    ) -> Asked:
        """A prompt as the model reads it, in so many places; None: in all of its context."""
        new, context = sampling.max_new_tokens, places or self.config.context_length
        limit = context - new
        if limit < 1:
            raise UserError(
                f"max_new_tokens {new} does not fit the model's context of {context} tokens; give "
                f"1 to {context - 1}"
            )
        if self.layout == "document" and isinstance(prompt, str):
            ids, left_out, stops = chat.render_opening(prompt, self.tokenizer), 0, sampling.stop
            space = ""
        else:
            if isinstance(prompt, str):
                prompt = [Message(role="user", content=prompt)]
            document = self.layout == "document"
            render = chat.render_document_prompt if document else chat.render_prompt
            stops = sampling.stop + (chat.NEXT_LINE,) * document
            kept = chat.shorten(prompt, self.tokenizer, limit, render) or chat.shorter(prompt)[-1]
            ids, left_out = render(kept, self.tokenizer), len(prompt) - len(kept)
            space = " " if document else chat.space(self.tokenizer)
        if len(ids) > limit:
            raise UserError(
                f"prompt {number + 1} is too long: that is {len(ids)} tokens and the model reads "
                f"{limit} at a time (beside {new} new ones); say it shorter"
            )
        return Asked(ids, left_out, stops, space)

    def _draw(self, requests: list[Draws], sampling: Sampling) -> tuple:
        """What is drawn for some requests, on the devices, padded to one of few shapes."""
        limit = self.config.context_length - sampling.max_new_tokens
        longest = max(len(request.asked.ids) for request in requests)
        width = min(limit, max(NARROWEST, _power_of_two(longest)))
        rows = _power_of_two(len(requests))
        rows += -rows % rules.shards(self.mesh, "batch") if self.mesh else 0
        # An empty row could not be sampled from.
        requests = requests + requests[-1:] * (rows - len(requests))
        prompts = pad_prompts([r.asked.ids for r in requests], width, self.tokenizer.pad_id)
        names_BN = np.array([request.names for request in requests], np.uint32)
        batch = {"prompts": prompts, "names_BN": names_BN}
        if self.mesh:
            (batch,) = pipeline.in_order(batch, rows, self.mesh)
        shared = dict(
            temperature=sampling.temperature,
            stop_ids=self.tokenizer.stop_ids,
            pad_id=self.tokenizer.pad_id,
            vocab_size=self.tokenizer.vocab_size,
        )
        rollout = _generate(
            self.config,
            self.params,
            batch["prompts"],
            keys.derive(sampling.seed, 0, "complete"),
            max_new_tokens=sampling.max_new_tokens,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            samples=names_BN.shape[1],
            row_ids_B=batch["names_BN"].reshape(-1),
            **shared,
        )
        top = ()
        if sampling.logprobs:
            count = min(sampling.logprobs, self.tokenizer.vocab_size - 1)
            top = _most_likely(self.config, self.params, rollout, count=count, **shared)
        return rollout.completion_BC, rollout.logprobs_BC, rollout.stopped_B, top

    def completion(
        self, asked: Asked, ids: list[int], logprobs: list[float], top: list, stopped: bool
    ) -> Completion:
        """What was drawn as text, up to the first stop string."""
        words = ids[: len(ids) - stopped]
        text, reason = self.tokenizer.decode(words), "stop" if stopped else "length"
        ends = [text.find(stop) for stop in asked.stops if stop in text]
        if ends:
            text, reason = text[: min(ends)], "stop_string"
            ids = words[: _tokens_of(text, words, self.tokenizer)]
        text = text.removeprefix(asked.space)
        n = len(ids)
        return Completion(text, ids, logprobs[:n], reason, len(asked.ids), asked.left_out, top[:n])


class Asked(NamedTuple):
    """A prompt's tokens, how many turns were left out, the stop strings, and what stands before the
    first word of an answer."""

    ids: list[int]
    left_out: int
    stops: tuple[str, ...]
    space: str


class Draws(NamedTuple):
    """Completions to be drawn of one prompt, which is read once, and the names of their draws."""

    asked: Asked
    names: tuple[int, ...]


def draws(asked: list[Asked], n: int) -> Iterator[Draws]:
    """All samples of all prompts, as many in each as divide n and are not too many for one batch.

    Equal prompts are told apart by their order.
    """
    each = max(size for size in range(1, min(n, BATCH) + 1) if n % size == 0)
    seen = collections.Counter()
    for one in asked:
        ids = np.int32(one.ids).tobytes()
        places = [seen[ids] << 16 | sample for sample in range(n)]
        names = [zlib.crc32(ids + place.to_bytes(8, "little")) for place in places]
        for start in range(0, n, each):
            yield Draws(one, tuple(names[start : start + each]))
        seen[ids] += 1


def _power_of_two(number: int) -> int:
    """The smallest one that is at least so large."""
    return 1 << (number - 1).bit_length()


def _tokens_of(text: str, ids: list[int], tokenizer: Tokenizer) -> int:
    """How many of the tokens it takes to write the text, which may end within the last of them."""
    return bisect.bisect_left(
        range(len(ids)), True, key=lambda n: tokenizer.decode(ids[:n]).startswith(text)
    )


# Jitted here, not where they are called: models of one shape share their programs.
_generate = jax.jit(
    generate,
    static_argnums=0,
    static_argnames=(
        *("max_new_tokens", "stop_ids", "pad_id", "temperature"),
        *("top_k", "top_p", "min_p", "vocab_size", "samples"),
    ),
)


_most_likely = jax.jit(
    most_likely,
    static_argnums=0,
    static_argnames=("count", "temperature", "stop_ids", "pad_id", "vocab_size"),
)
