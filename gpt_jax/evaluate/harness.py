"""Our models under EleutherAI's lm-evaluation-harness, with all of its tasks (the extra `lm-eval`).

    import lm_eval
    lm_eval.simple_evaluate(harness(open_run("runs/rlhf/tiny/pretrain")), tasks=["hellaswag"])

What it asks is answered by `likelihood.py` and `TextModel.complete`, so the numbers are those of
`experiments.evaluate` on the same rows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_jax.errors import UserError
from gpt_jax.evaluate.likelihood import loglikelihoods, rolling
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.text import chat

NEW_TOKENS = 256  # of an answer, where a task does not say


def harness(model: TextModel) -> Any:
    """The model as an `lm_eval.api.model.LM`.

    A prompt that is too long for the model loses its beginning, as in the harness itself; how many
    did is said on standard error.

    Args:
      model: a language model; it goes on with texts, however it is asked otherwise.

    Raises:
      UserError: if lm-evaluation-harness is missing.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise UserError(
            f'lm-evaluation-harness is not installed ({error}): pip install "gpt_jax[lm-eval]"'
        ) from error
    document = model._replace(layout="document")

    class Adapter(LM):
        """Answers requests, each of which has its arguments in `args`."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """(log-probability, whether it is the greedy one) of continuations after contexts."""
            found = loglikelihoods(model, [one.args for one in requests])
            _say(sum(one.left_out > 0 for one in found), len(found))
            return [(one.logprob, one.greedy) for one in found]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            """The log-probability of each text, in windows of the model's whole context."""
            stride = model.config.context_length
            return [rolling(model, *one.args, stride).logprob for one in requests]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """What the model writes after each context, up to one of its `until` strings."""
            alike: dict[Sampling, list[int]] = {}
            for number, one in enumerate(requests):
                alike.setdefault(sampling_of(one.args[1], model), []).append(number)
            texts, cut = [""] * len(requests), 0
            for sampling, numbers in alike.items():
                room = model.config.context_length - sampling.max_new_tokens
                kept = [_end_of(requests[n].args[0], room, document) for n in numbers]
                cut += sum(k != requests[n].args[0] for n, k in zip(numbers, kept, strict=True))
                for number, found in zip(numbers, document.complete(kept, sampling), strict=True):
                    texts[number] = found.text
            _say(cut, len(requests))
            return texts

    return Adapter()


def sampling_of(options: Mapping[str, Any], model: TextModel) -> Sampling:
    """The harness' options of a generation; never more than half of the model's context is new.

    Raises:
      UserError: naming an option that we do not have.
    """
    known = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}
    if unknown := sorted(set(options) - known):
        raise UserError(f"generation has {', '.join(sorted(known))}, but no {unknown[0]!r}")
    until = options.get("until") or ()
    drawn = options.get("do_sample", options.get("temperature", 0.0) > 0.0)
    new = min(int(options.get("max_gen_toks", NEW_TOKENS)), model.config.context_length // 2)
    return Sampling(
        max_new_tokens=new,
        temperature=float(options.get("temperature", 1.0)) if drawn else 0.0,
        top_p=float(options.get("top_p", 1.0)) if drawn else 1.0,
        top_k=int(options.get("top_k", 0)) if drawn else 0,
        stop=(until,) if isinstance(until, str) else tuple(until),
    )


def _end_of(text: str, room: int, model: TextModel) -> str:
    """As much of a text's end as the model reads, with what opens a document."""
    tokenizer = model.tokenizer
    ids = tokenizer.encode(text)
    kept = len(ids)
    while kept and len(chat.render_opening(text, tokenizer)) > room:
        kept = min(kept - 1, room)
        text = tokenizer.decode(ids[len(ids) - kept :])
    return text


def _say(cut: int, total: int) -> None:
    if cut:
        print(f"{cut:,} of {total:,} prompts lost their beginning", file=sys.stderr)
