"""Cuts a reply into sentences of plain words, and sentences into clauses."""

import re
from collections.abc import Iterator

from gpt_jax.data.microworld.question import Question
from gpt_jax.data.microworld.wordings import NUMBER_WORDS, SPELLINGS

Words = tuple[str, ...]

_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|->|[.!?;\n]+|\S")
_SHORTENED = {"'re": " are", "'m": " am", "'ve": " have", "'ll": " will", "'d": " would"}
_PAUSES = frozenset('()[]"*_`~{}') | {"\N{EM DASH}", "\N{EN DASH}"}
# A clause may begin after, or with, one of these.
_JOINTS = frozenset(", : and but so because since who which while then".split())
_DROPPED = _JOINTS - {"who", "which"}
MOST_JOINTS = 40
# "One" is a number only after one of these.
_BEFORE_ONE = frozenset("is are = equals makes gives get leaves plus minus + - , : from".split())


def sentences(text: str) -> Iterator[tuple[Words, str]]:
    """(words, sign that ends it) of every sentence: in lower case, with nothing shortened.

    The words include `,` and `:` and the signs of sums; the last sentence's end may be empty.
    """
    words: list[str] = []
    tokens = _TOKEN.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    for i, token in enumerate(tokens):
        after = tokens[i + 1] if i + 1 < len(tokens) else ""
        if token[0] in ".!?;\n":
            if words or "?" in token:
                yield tuple(words), token
            words = []
        else:
            words += _plain(token, words[-1] if words else "", after)
    if words:
        yield tuple(words), ""


def _plain(token: str, before: str, after: str) -> list[str]:
    if token in _PAUSES or token == "-" and not after.isdigit() or token == "'":
        return [","] if before not in ("", ",") else []
    if token == "->":
        return [":"]
    if token == "one":
        return ["1"] if before in _BEFORE_ONE or not (before or after.isalpha()) else ["one"]
    if token in NUMBER_WORDS:
        return [NUMBER_WORDS[token]]
    if token.endswith("n't"):
        verb = {"ca": "can", "wo": "will"}.get(token[:-3], token[:-3])
        return [verb, "not"]
    if token.endswith("'s"):
        return [token[:-2], "'s"]
    for short, full in _SHORTENED.items():
        token = token.removesuffix(short) + full if token.endswith(short) else token
    return SPELLINGS.get(token, token).split()


def joints(words: Words) -> list[int]:
    """Where a sentence may be cut: before the words at these places, and at both ends."""
    inner = [i for i, word in enumerate(words) if word in _JOINTS and i > 0]
    return [0, *inner, len(words)]


def clause(words: Words) -> Words:
    """A cut piece without the words that join it to the others."""
    start, end = 0, len(words)
    while start < end and words[start] in _DROPPED:
        start += 1
    while start < end and words[end - 1] in _DROPPED:
        end -= 1
    return words[start:end]


def asking_words(question: Question) -> set[str]:
    """The title of what is shown, such as "table", and the words of what is asked of it."""
    title = question.shown.partition(":")[0]
    return set(re.findall(r"[a-z]+|\d+", f"{title} {question.asked}".lower()))


def unquoted(question: Question, text: str) -> str:
    """The reply without the prompt, where it repeats it."""
    text = text.lower()
    if question.kind != "small_talk":
        for quoted in filter(None, (question.shown, question.asked)):
            text = text.replace(quoted.lower(), " ")
    return text
