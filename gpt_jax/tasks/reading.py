"""What an answer comes to: the part of a text that is meant as the answer, and the number in it."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

LONGEST = 60  # characters of a number; Fraction would compute 10**999999999

# What stands before an answer, which goes on to the end of the line; and TeX's own way.
_MARK = re.compile(
    r"####|\b(?:final\s+answer|answer|result)\b[ \t*_]*(?:(?:is|was|are)\b|=|:)[ \t*_:]*",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_DENIED = re.compile(r"\b(?:not|never|isn't|instead of|rather than|unlike|no longer)\b", re.I)
_THIN = re.compile("(?<=\\d)[\u00a0\u202f\u2009](?=\\d{3}(?!\\d))")  # spaces between thousands
_RAISED = re.compile("[\u00b2\u00b3\u00b9\u2070-\u2079]+")  # exponents, which NFKC makes digits
_NUMBER = re.compile(
    r"""
    (?<![\w.])(?P<sign>[-+]?)\s?[$€£¥]?\s?(?P<signed>[-+]?)
    (?: \\[dt]?frac\s*\{(?P<top>[\d,]+)\}\s*\{(?P<bottom>[\d,]+)\}
      | (?P<whole>\d[\d,]*)\s+(?P<over>\d+)/(?P<under>\d+)(?![\w/.]*\d)
      | (?P<digits>\d[\d,]*(?:\.\d+)*|\.\d+)
        (?: /(?P<denominator>\d[\d,]*(?:\.\d+)?)(?![/\d])
          | \s?[x*]\s?10\s?(?:\^|\*\*)\s?\{?(?P<power>[-+]?\d+)\}?
          | [eE](?P<exponent>[-+]?\d+)(?!\w) )?
    )
    """,
    re.VERBOSE,
)


def answer_in(text: str) -> str:
    """The part of a text that is meant as its answer: what stands behind a "####", in a \\boxed{}
    or behind "the answer is", whichever comes last; without any of them all of it."""
    found = _marked(text)
    return text if found is None else found


def _marked(text: str) -> str | None:
    boxes = [(match.start(), match[1]) for match in _BOXED.finditer(text)]
    ends = [(match.start(), match.end()) for match in _MARK.finditer(text)]
    lines = [(start, text[end:].split("\n", 1)[0]) for start, end in ends[-1:]]
    return max(boxes + lines, default=(0, None))[1]


def plain(text: str) -> str:
    """A text without what does not matter to an answer: case, white space, Markdown, quotes, a
    full stop, the shapes of its characters."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"[*_`$]+|\\[()\[\]]", "", text)
    text = text.replace("\u2019", "'").replace("\u2212", "-")
    text = " ".join(text.split())
    return text.strip("\"'“”‘’«»() ").rstrip(".!,;: ").strip("\"'“”‘’«»() ")


def numbers_in(text: str) -> list[Fraction | None]:
    """The numbers of a text in their order, exactly; None for what looks like one and is none, such
    as 1.2.3 or 12,34."""
    text = _RAISED.sub("^ ", _THIN.sub("", text))
    text = unicodedata.normalize("NFKC", _vulgar(text))
    text = text.replace("\u2212", "-").replace("\u2044", "/").replace("×", "x")
    text = text.replace("\\times", "x").replace("\\cdot", "x").replace("\\$", "$")
    text = re.sub(r"\\[,!;]|\{,\}", ",", text)  # TeX's thin spaces between thousands
    text = re.sub(r"(?<=\d)[*_`]+(?=\s|[.,;:!?)]|$)|(?<![\w)*])[*_`]+(?=[-+$]?\d)", "", text)
    return [_value(match) for match in _NUMBER.finditer(text)]


def number_in(text: str) -> Fraction | None:
    """The number that a text answers with; None if it does not commit itself to one.

    Where the answer is marked (`answer_in`), it must be the one number there, or what the last "="
    there leads to. Else it is the last number of the text, if nothing that is denied.
    """
    part = answer_in(text)
    if _marked(text) is not None:
        if "=" in part:
            part = part.rpartition("=")[2]
        found = numbers_in(part)
        if len(set(found)) != 1 or _DENIED.search(part):
            return None
        return found[0]
    found = numbers_in(part)
    sentence = re.split(r"[.!?]\s|\n", part.strip())[-1]
    if not found or (_DENIED.search(sentence) and numbers_in(sentence)):
        return None
    return found[-1]


def _vulgar(text: str) -> str:
    """½ as 1/2; 1½ as 1 1/2."""

    def written(match: re.Match) -> str:
        parts = unicodedata.normalize("NFKC", match[2]).replace("\u2044", "/")
        return f"{match[1]} {parts} " if match[1] else f" {parts} "

    return re.sub("(\\d?)([\u00bc-\u00be\u2150-\u215e])", written, text)


def _value(match: re.Match) -> Fraction | None:
    """The number of a match of `_NUMBER`."""
    part = match.groupdict()
    if len(match[0]) > LONGEST:
        return None
    try:
        if part["top"]:
            value = Fraction(_grouped(part["top"]), _grouped(part["bottom"]))
        elif part["whole"]:
            value = _grouped(part["whole"]) + Fraction(int(part["over"]), int(part["under"]))
        else:
            value = _grouped(part["digits"])
            if part["denominator"]:
                value /= _grouped(part["denominator"])
            power = int(part["power"] or part["exponent"] or 0)
            if abs(power) > LONGEST:
                return None
            value *= Fraction(10) ** power
    except (ValueError, ZeroDivisionError):
        return None
    return -value if "-" in (part["sign"], part["signed"]) else value


def _grouped(digits: str) -> Fraction:
    """Digits that may have commas between thousands; a ValueError where these stand elsewhere."""
    digits = digits.rstrip(",")
    if "," in digits and not re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", digits):
        raise ValueError(digits)
    return Fraction(digits.replace(",", ""))
