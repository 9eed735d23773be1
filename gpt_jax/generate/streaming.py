"""Text as it comes: which of it is settled, and which token each of its letters came with."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import jax

from gpt_jax.generate.engine import Engine
from gpt_jax.generate.requests import Request
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Asked, Completion, TextModel, draws
from gpt_jax.models.cache import KVCache
from gpt_jax.models.contract import Model, init_cache
from gpt_jax.text.tokenizer import Tokenizer

HELD = "\N{REPLACEMENT CHARACTER}"  # the text of a character whose bytes are not all there


def takes(model: Model) -> bool:
    """Whether an engine takes a model: one that keeps its past as keys and values."""
    return isinstance(jax.eval_shape(lambda: init_cache(model, 1, 2)), KVCache)


def settled(text: str, stops: Sequence[str]) -> str:
    """As much of a text under way as no token to come can change, or turn into a stop string."""
    held = len(text) - len(text.rstrip(HELD))
    begun = (
        size
        for stop in stops
        for size in range(min(len(stop) - 1, len(text)), 0, -1)
        if text.endswith(stop[:size])
    )
    return text[: len(text) - max([held, *begun])]


def pieces(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """What each token adds to the text; one that ends within a character adds nothing yet.

    Joined they are the text of all tokens, whatever a tokenizer does between two of them, in time
    that grows with their number alone.
    """
    found, start, end = [], 0, 0  # the tokens from start to end are told and stand before the next
    for place in range(1, len(ids) + 1):
        told, text = tokenizer.decode(ids[start:end]), tokenizer.decode(ids[start:place])
        if text.endswith(HELD) and place < len(ids):
            found.append("")
            continue
        found.append(text[len(told) :])
        start, end = end, place
    return found


def progress(model: TextModel, asked: Asked, request: Request) -> tuple[str, Completion | None]:
    """The text of a request that is settled, and its completion once it has ended.

    Args:
      model: whose it is.
      asked: the prompt as the model reads it, with its stop strings.
      request: on its way through an engine; where a stop string has come it is to be withdrawn.
    """
    stopped = request.finish_reason == "stop"
    completion = model.completion(asked, request.tokens, request.logprobs, request.tops, stopped)
    if request.finish_reason or completion.finish_reason == "stop_string":
        return completion.text, completion
    return settled(completion.text, asked.stops), None


def stream(engine: Engine, asked: Asked, sampling: Sampling) -> Generator[str, None, Completion]:
    """One completion in parts, as they come; closed before its end it is withdrawn.

    Args:
      engine: that nobody else uses meanwhile.
      asked: the prompt, of `TextModel.asked`.
      sampling: how to draw, once.

    Yields:
      What is added to the text after every step of the engine; "" where that is nothing.

    Returns:
      The completion, which is that of `TextModel.complete`.

    Raises:
      UserError: if it can never be answered.
    """
    ((_, (name,)),) = draws([asked], 1)
    request, sent = engine.submit(Request(asked.ids, sampling, name)), 0
    try:
        while True:
            engine.advance()
            text, completion = progress(engine.model, asked, request)
            yield text[sent:]
            sent = max(sent, len(text))
            if completion:
                return completion
    finally:
        engine.cancel(request)
