"""Completions that fit a JSON schema, a regular expression, a grammar or a text with blanks.

    constrain = Constrain(model.tokenizer, model.config.vocab_size)
    engine.complete(["Who is Mira? Answer in JSON."], sampling, constrain.json_schema(schema))

After every token the library llguidance (an extra, `constraints`) says which may come next. What
has come to its end fits; what the limit of tokens cuts off does not yet, so leave room.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.text.tokenizer import Tokenizer

BLANK = re.compile(r"\{\{(?P<name>\w+)(?::(?P<pattern>.*?))?\}\}(?!\})")
ANYTHING = r"[^\n]+"
# A model that is unsure would add white space without end.
WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Match:
    """Where one completion stands in its grammar; an `requests.Constraint`."""

    def __init__(self, matcher: Any, words: int):
        self._matcher, self._words = matcher, words

    def allowed(self) -> np.ndarray:
        """uint32 words; bit i of word w is whether token 32 w + i may come next."""
        found = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: self._words]
        self._check()
        return found

    def take(self, token: int) -> None:
        """The token that came."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def done(self) -> bool:
        """Whether what came so far fits as it is."""
        return self._matcher.is_accepting()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise UserError(f"the constraint went wrong: {_first_line(self._matcher)}")


class Constrain:
    """Makes constraints for a tokenizer; each function gives a function that begins a new one."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        """
        Args:
          tokenizer: the model's.
          vocab_size: the model's, which may be larger.

        Raises:
          UserError: if llguidance is missing.
        """
        try:
            import llguidance
        except ImportError as error:
            raise UserError(
                'constrained output needs llguidance: pip install "gpt_jax[constraints]"'
            ) from error
        self._library, self._words = llguidance, -(-vocab_size // 32)
        self._tokenizer = llguidance.LLTokenizer(
            tokenizer.described(), n_vocab=vocab_size, eos_token=list(tokenizer.stop_ids)
        )

    def json_schema(self, schema: dict[str, Any]) -> Callable[[], Match]:
        """JSON that fits a schema, on one line."""
        convert = self._library.LLMatcher.grammar_from_json_schema
        return self._made("JSON schema", convert, json.dumps(schema | {"x-guidance": WRITTEN}))

    def regex(self, pattern: str) -> Callable[[], Match]:
        """Text that a regular expression matches from its beginning to its end."""
        return self._made("regular expression", self._library.LLMatcher.grammar_from_regex, pattern)

    def grammar(self, lark: str) -> Callable[[], Match]:
        """Text of a context-free grammar in Lark's form, whose first rule is `start`."""
        return self._made("grammar", self._library.LLMatcher.grammar_from_lark, lark)

    def template(self, text: str) -> Callable[[], Match]:
        r"""A text with blanks: "Name: {{name:[A-Z][a-z]+}}, age: {{age:\d+}}".

        A blank without a pattern is anything on one line.
        """
        parts, end = [], 0
        for blank in BLANK.finditer(text):
            parts += [json.dumps(text[end : blank.start()])] if blank.start() > end else []
            parts.append(f"/{(blank['pattern'] or ANYTHING).replace('/', chr(92) + '/')}/")
            end = blank.end()
        if end == 0:
            raise UserError(f"the template {text!r} has no blank like {{{{name}}}}; add one")
        parts += [json.dumps(text[end:])] if end < len(text) else []
        return self.grammar(f"start: {' '.join(parts)}")

    def _made(self, what: str, convert: Callable[[str], str], text: str) -> Callable[[], Match]:
        """Checks a grammar once, and gives what begins one.

        Raises:
          UserError: saying what is wrong with it.
        """
        try:
            grammar = convert(text)
        except ValueError as error:
            raise UserError(f"the {what} cannot be read: {error}; mend it") from error
        first = self._library.LLMatcher(self._tokenizer, grammar, log_level=0)
        if first.is_error():
            raise UserError(f"the {what} cannot be read: {_first_line(first)}; mend it")
        return lambda: Match(first.deep_copy(), self._words)


def _first_line(matcher: Any) -> str:
    return matcher.get_error().strip().splitlines()[0]
