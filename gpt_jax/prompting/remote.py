"""Any server with OpenAI's interface as a `complete`, so that strategies run against it, too."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence

from gpt_jax.errors import UserError
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Complete, Completion, Prompt


def remote(base_url: str, model: str, api_key: str = "none", at_once: int = 16) -> Complete:
    """`complete` by a server.

    Args:
      base_url: as http://127.0.0.1:8000/v1.
      model: its name there.
      api_key: to show.
      at_once: requests that wait at a time.

    Raises:
      UserError: if the client library is missing; and by `complete`, if the server refuses.
    """
    try:
        import openai
    except ImportError as error:
        raise UserError("asking a server needs its client: pip install openai") from error
    client = openai.OpenAI(base_url=base_url, api_key=api_key)

    def one(prompt: Prompt, sampling: Sampling) -> list[Completion]:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            reply = client.chat.completions.create(
                model=model,
                messages=list(messages),
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                stop=list(sampling.stop) or None,
                n=sampling.n,
                seed=sampling.seed,
                presence_penalty=sampling.presence_penalty,
                frequency_penalty=sampling.frequency_penalty,
            )
        except openai.OpenAIError as error:
            raise UserError(f"{base_url} did not answer: {error}") from error
        # The interface gives the sum over all choices; each one is taken to have its share.
        written = reply.usage.completion_tokens // max(1, len(reply.choices)) if reply.usage else 0
        read = reply.usage.prompt_tokens if reply.usage else 0
        reasons = {"length": "length"}
        return [
            Completion(
                text=choice.message.content or "",
                tokens=[0] * written,
                logprobs=[],
                finish_reason=reasons.get(choice.finish_reason, "stop"),
                prompt_tokens=read,
            )
            for choice in sorted(reply.choices, key=lambda choice: choice.index)
        ]

    def complete(prompts: Sequence[Prompt], sampling: Sampling = Sampling()) -> list[Completion]:
        if sampling.top_k or sampling.min_p or sampling.repetition_penalty != 1.0:
            raise UserError("top_k, min_p and repetition_penalty are not OpenAI's; leave them out")
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            found = pool.map(lambda prompt: one(prompt, sampling), prompts)
            return [answer for answers in found for answer in answers]

    return complete
