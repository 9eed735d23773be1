"""Completions as OpenAI's API writes them, whole or in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from gpt_jax.generate.streaming import pieces
from gpt_jax.generate.text import Completion
from gpt_jax.serve.bodies import Wanted
from gpt_jax.serve.tools import calls_of
from gpt_jax.text.tokenizer import Tokenizer


class Answer:
    """The frame of one answer: who, when, and of which kind."""

    def __init__(self, chat: bool, name: str, wanted: Wanted, tokenizer: Tokenizer):
        self.chat, self.name, self.wanted, self.tokenizer = chat, name, wanted, tokenizer
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def whole(self, found: Sequence[Completion]) -> dict[str, Any]:
        """All completions."""
        kind = "chat.completion" if self.chat else "text_completion"
        choices = [self._choice(index, one) for index, one in enumerate(found)]
        return self._frame(kind) | {"choices": choices, "usage": usage(found, self.wanted)}

    def begin(self, index: int) -> dict[str, Any] | None:
        """The chunk before the first words of a chat's completion."""
        return self._chunk(index, {"role": "assistant", "content": ""}) if self.chat else None

    def words(self, index: int, text: str) -> dict[str, Any]:
        """A chunk with more words."""
        return self._chunk(index, {"content": text} if self.chat else text)

    def end(self, index: int, one: Completion) -> dict[str, Any]:
        """The chunk in which a completion ends; calls and log-probabilities come in it."""
        choice = self._choice(index, one)
        delta: dict | str = {} if self.chat else ""
        if self.chat and (calls := choice["message"].get("tool_calls")):
            delta = {"tool_calls": [{"index": i} | call for i, call in enumerate(calls)]}
        chunk = self._chunk(index, delta)
        more = {key: choice[key] for key in ("finish_reason", "logprobs")}
        chunk["choices"][0] |= more
        return chunk

    def total(self, found: Sequence[Completion]) -> dict[str, Any]:
        """The chunk with the numbers of tokens, which is the last."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._frame(kind) | {"choices": [], "usage": usage(found, self.wanted)}

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.name}

    def _chunk(self, index: int, delta: dict | str) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        choice = {"index": index, "finish_reason": None, "logprobs": None}
        choice["delta" if self.chat else "text"] = delta
        return self._frame(kind) | {"choices": [choice]}

    def _choice(self, index: int, one: Completion) -> dict[str, Any]:
        reason = "length" if one.finish_reason == "length" else "stop"
        choice = {"index": index, "finish_reason": reason, "logprobs": self._logprobs(one)}
        if not self.chat:
            return choice | {"text": one.text}
        calls = calls_of(one.text) if self.wanted.choice != "none" and reason == "stop" else []
        if not calls:
            return choice | {"message": {"role": "assistant", "content": one.text, "refusal": None}}
        made = [
            {
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for name, arguments in calls
        ]
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": made}
        return choice | {"finish_reason": "tool_calls", "message": message}

    def _logprobs(self, one: Completion) -> dict[str, Any] | None:
        """Of every token, in the form of the chat's or of the older interface."""
        if not self.wanted.sampling.logprobs:
            return None

        def text(token: int) -> str:
            return self.tokenizer.decode([token], skip_special=False)

        if not self.chat:
            texts = [text(token) for token in one.tokens]
            offsets = [len("".join(texts[:i])) for i in range(len(texts))]
            tops = [{text(i): logprob for i, logprob in top} for top in one.alternatives]
            return {
                "tokens": texts,
                "token_logprobs": one.logprobs,
                "top_logprobs": tops,
                "text_offset": offsets,
            }

        def entry(token: int, logprob: float, piece: str) -> dict[str, Any]:
            return {"token": text(token), "logprob": logprob, "bytes": list(piece.encode())}

        # The bytes of all tokens are the text: of a character in many tokens the last has them.
        content = [
            entry(token, logprob, piece) | {"top_logprobs": [entry(i, p, text(i)) for i, p in top]}
            for token, logprob, piece, top in zip(
                one.tokens,
                one.logprobs,
                pieces(one.tokens, self.tokenizer),
                one.alternatives,
                strict=True,
            )
        ]
        return {"content": content, "refusal": None}


def usage(found: Sequence[Completion], wanted: Wanted) -> dict[str, int]:
    """How many tokens were read and written; a prompt counts once for all of its completions.

    Where the oldest turns of a conversation did not fit, `left_out_turns` says how many.
    """
    read = sum(one.prompt_tokens for one in found[:: wanted.sampling.n])
    written = sum(len(one.tokens) for one in found)
    count = {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }
    # OpenAI's interface has no word for it, but nothing is cut in silence.
    left_out = max(one.left_out for one in found)
    return count | ({"left_out_turns": left_out} if left_out else {})
