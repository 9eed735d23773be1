"""Sums, lists and numbers in a clause: equations, counted steps, and what is first or largest."""

import re
from typing import Literal

from gpt_jax.data.microworld import exercises
from gpt_jax.data.microworld.exercises import LISTED
from gpt_jax.data.microworld.question import Question
from gpt_jax.data.microworld.wordings import ADVERBS, ARTICLES, PLAIN_VERBS

Outcome = Literal["answer", "true", "false"]

_N = r"\d+"
_AND = r"(?: ?, and | ?, then | ?, | and | then | < )"
_SERIES = rf"{_N}(?:{_AND} ?{_N})+"
# Sums in words, as signs.
_SIGNS = [
    (re.compile(pattern), sign)
    for pattern, sign in (
        (r"\bplus\b", "+"),
        (r"\bminus\b|\btake away\b", "-"),
        (r"\b(\d+) less than (\d+)\b", r"\2 - \1"),
        (r"\b(\d+) more than (\d+)\b", r"\2 + \1"),
        (r"\b(\d+) less (\d+)\b", r"\1 - \2"),
        (r"\b(?:sum|total) of (\d+) and (\d+)\b", r"\1 + \2"),
        (r"\bdifference (?:of|between) (\d+) and (\d+)\b", r"\1 - \2"),
        (r"\b(?:add|adding) (\d+) (?:and|to|with) (\d+)\b", r"\1 + \2"),
        (r"\b(\d+) (?:added to|with) (\d+)\b", r"\1 + \2"),
        (
            r"\b(?:take|taking|subtract|subtracting) (\d+) (?:away )?from (\d+)\b",
            r"\2 - \1",
        ),
        (r"\b(\d+) (?:taken|subtracted|away) from (\d+)\b", r"\2 - \1"),
        (r"\b(?:from|if you have) (\d+) ?,? (?:take|and take|you take) (\d+)\b", r"\1 - \2"),
        (r"^(?:if|when) (?:you|we|i) ", ""),
        (r"^(?:answer|result|value) (?:to|of) (?=\d+ [+-])", ""),
        (r" (?:in total|in all|together|altogether)(?= |$)", ""),
        (
            r",? ?\b(?:to get|to make|to give|to reach|(?:and )?(?:you|we|i) (?:get|have)|and get"
            r"|is equal to|come to|get|give|make|equal|leave|is)\b",
            " =",
        ),
        (r"\b(\d+) and (\d+) (?==)", r"\1 + \2 "),
        (r"^(?:(?:right )?answer|result|sum|it|that|this) [=:] (?=\d+ [+-] )", ""),
        (r" +", " "),
    )
]
_EXPRESSION = rf"(?:- ?)?{_N}(?: [+-] {_N})*"
_EQUATION = re.compile(rf"{_EXPRESSION}(?: = {_EXPRESSION})+")
_TERM = re.compile(rf"([+-]?) ?({_N})")
_BARE_NUMBER = re.compile(
    r"(?:(?:it|that|this|(?:right )?answer|result|sum|total|difference|number) [=:] |= )?"
    rf"(-? ?{_N})"
)
_COUNTING = re.compile(
    r"^(?:(?:i|we|you|let me|let us|to) )?(?:count|start|begin|go)(?:n?ing)?"
    r"(?: on| up| down| back| out)?(?: (?:from|at|with) (\d+))?(?: (?:up |down |back )?to (\d+))?"
    r"(?: and)?(?: count)?(?: (?:by )?(\d+)(?: more| up| down| back| on| steps?| times)*)?"
    r"(?: [:,] | |$)"
)
_ITEM = rf"(?:{'|'.join(LISTED)})"
_ITEMS = re.compile(
    rf"(?:(?:list|things|items|they|there) ?(?:is|have|contain|:)? ?:? ?)?"
    rf"({_ITEM}(?:(?: ?, and | ?, | and ){_ITEM})+)"
)
_ORDINALS = {
    "first": 0, "1st": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "last": -1, "final": -1
}  # fmt: skip
_NOUN = r"(?: (?:things?|items?|ones?|words?|objects?|numbers?))?"
_TAIL = (
    r"(?: (?:in|of|on|from|among) (?:list|it|row|line|them|all|these|those|numbers|all of them))?"
)
_PLACE = rf"(?P<place>{'|'.join(_ORDINALS)}){_NOUN}{_TAIL}"
_IN_LIST = [
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("place", rf"{_PLACE} (?:is|come|:|there is) :? ?(?P<item>{_ITEM})"),
        ("place", rf"(?:what come|what is) {_PLACE} is (?P<item>{_ITEM})"),
        ("place", rf"(?P<item>{_ITEM}) (?:is|come) {_PLACE}"),
        ("start", rf"(?:list|it) (?:start|begin) with (?P<item>{_ITEM})"),
        ("end", rf"(?:list|it) end with (?P<item>{_ITEM})"),
        (
            "after",
            rf"(?:next |right |directly |what (?:come|is) |(?:thing|item|one) (?:that come )?)?"
            rf"after (?P<old>{_ITEM}) ?(?:is|come|there is|:|,|you find)? ?(?:next )?"
            rf"(?P<item>{_ITEM})",
        ),
        (
            "after",
            rf"(?P<item>{_ITEM}) (?:is |come )?(?:next |right |directly |what come )?"
            rf"(?:after|follow) (?P<old>{_ITEM})",
        ),
        ("after", rf"(?P<old>{_ITEM}) is followed by (?P<item>{_ITEM})"),
        ("after", rf"what follow (?P<old>{_ITEM}) is (?P<item>{_ITEM})"),
        (
            "after",
            rf"(?P<old>{_ITEM}) (?:is |come )?(?:right |directly )?before (?P<item>{_ITEM})",
        ),
        ("next", rf"next{_NOUN} (?:is|come|:) ?(?P<item>{_ITEM})"),
        ("next", rf"(?P<item>{_ITEM}) (?:is|come) (?:next|after(?: it)?)"),
        ("next", rf"it is followed by (?P<item>{_ITEM})"),
        (
            "count",
            rf"(?:(?:there|they) is|list have|it have|(?:i|we|you) (?:count|see|have)"
            rf"|in list(?: there)? is|list consist of|list contain)(?: only)? (?P<number>{_N})"
            rf"{_NOUN}{_TAIL}",
        ),
        ("count", rf"(?P<number>{_N}) (?:things|items|words|objects|of them)(?: is)?{_TAIL}"),
        ("count", rf"(?P<number>{_N}) is (?:count|number|in list|number of things){_TAIL}"),
        (
            "count",
            rf"(?:number|count|length|size)(?: of (?:list|things|items|it)){_TAIL} (?:is|:) ?"
            rf"(?P<number>{_N})",
        ),
        ("item", rf"(?:(?:it|that|this|answer|thing)(?: is| :) )?(?P<item>{_ITEM})"),
    )
]
_MOST = r"(?P<most>largest|biggest|greatest|highest|maximum|max|most)"
_LEAST = r"(?P<least>smallest|lowest|least|minimum|min|littlest)"
_MORE, _LESS = "(?P<more>larger|bigger|greater|higher|more)", "(?P<less>smaller|lower|less)"
_EXTREME = [
    re.compile(rf"(?:{_MOST}|{_LEAST}){_NOUN}{_TAIL} (?:is|:) ?(?P<number>{_N})"),
    re.compile(rf"(?P<number>{_N}) is (?:{_MOST}|{_LEAST}){_NOUN}{_TAIL}"),
    re.compile(rf"of (?:them|these|all|numbers)(?: all)? (?P<number>{_N}) is (?:{_MOST}|{_LEAST})"),
]
_COMPARED = re.compile(
    rf"(?P<number>{_N}) is (?:{_MORE}|{_LESS}) than (?P<others>{_N}(?:{_AND}{_N})*)"
)
_SMALL, _LARGE = "(?:smallest|low|lowest|least|small)", "(?:largest|high|highest|greatest|large)"
_ORDER = re.compile(
    rf"^(?:(?:it|that|this|they|answer|numbers)(?: is| :| go) )?"
    rf"(?:(?:(?:in|their|right|correct|put in|rising) )*order(?: of (?:them|numbers))?"
    rf"(?: (?:they )?is| they go)?|sorted(?: (?:they|numbers) is)?"
    rf"|(?:sorted )?(?P<up>from {_SMALL} to {_LARGE})(?: they is)?"
    rf"|(?:sorted )?(?P<down>from {_LARGE} to {_SMALL})(?: they is)?)? ?[:,]? ?(?={_N})"
)
_ORDER_AFTER = re.compile(r" (?:is (?:their |right |correct )*order|in order|is sorted)$")


def read(question: Question, words: tuple[str, ...]) -> Outcome | None:
    """What a clause says of the question's numbers or list; None if it cannot be understood.

    Returns:
      answer: it states the answer. true: it is true, but no answer. false: it is not true.
    """
    text = " ".join(
        PLAIN_VERBS.get(word, word)
        for word in words
        if word not in ARTICLES and (word not in ADVERBS or word == "then")
    ).replace(" ,", ",")
    for negation in ("do not ", "not "):
        if negation in text:
            positive = _read(question, text.replace(negation, "", 1))
            return {"answer": "false", "true": "false", "false": "true"}.get(positive)
    return _read(question, text)


def _read(question: Question, text: str) -> Outcome | None:
    signs = text.replace(",", " ,")
    for pattern, sign in _SIGNS:
        signs = pattern.sub(sign, signs)
    signs = signs.strip()
    if _EQUATION.fullmatch(signs) and re.search(r"\d ?[+-] ?\d", signs):
        return _equation(question, signs)
    match question.kind:
        case "arithmetic":
            return _counted(question, text) or _number(question, signs)
        case "numbers":
            return _numbers(question, text) or _number(question, signs)
        case "list":
            return _listed(question, text) or _number(question, signs)
    return None


def _number(question: Question, signs: str) -> Outcome | None:
    """A number by itself is a claim."""
    if match := _BARE_NUMBER.fullmatch(signs):
        return "answer" if match[1].replace(" ", "") == question.answer else "false"
    return None


def _equation(question: Question, signs: str) -> Outcome:
    """An equation of any sums; the asked one is the answer, and so is one in smaller steps."""
    sides = [
        [int(sign + number) for sign, number in _TERM.findall(side)] for side in signs.split("=")
    ]
    if len({sum(side) for side in sides}) > 1:
        return "false"
    if question.kind != "arithmetic" or [int(question.answer)] not in sides:
        return "true"
    a, b = question.terms
    asked = sorted((a, b if question.operator == "+" else -b))
    for side in sides:
        if sorted(side) == asked or (len(side) > 2 and set(side) & set(asked)):
            return "answer"
    return "true"


def _counted(question: Question, text: str) -> Outcome | None:
    """A sum counted out, with or without the number it starts from."""
    start, count = question.terms
    steps = exercises.steps(question)
    if match := _COUNTING.match(text):
        told = zip(match.groups(), (start, int(question.answer), count))
        if any(said and int(said) != number for said, number in told):
            return "false"
        text = text[match.end() :]
        if not text:
            return "true" if any(match.groups()) else None
    if re.fullmatch(_SERIES, text):
        found = [int(number) for number in re.findall(_N, text)]
        return "true" if found in (steps, [start, *steps]) else "false"
    return None


def _numbers(question: Question, text: str) -> Outcome | None:
    numbers = sorted(map(int, question.items))
    for pattern in _EXTREME:
        if match := pattern.fullmatch(text):
            most = bool(match["most"])
            if int(match["number"]) != numbers[-1 if most else 0]:
                return "false"
            return "answer" if question.wanted == ("largest" if most else "smallest") else "true"
    if match := _COMPARED.fullmatch(text):
        number, others = int(match["number"]), [int(n) for n in re.findall(_N, match["others"])]
        if not {number, *others} <= set(numbers):
            return "false"
        right = all(number > other if match["more"] else number < other for other in others)
        return "true" if right else "false"
    match = _ORDER.match(text)
    found = _ORDER_AFTER.sub("", text[match.end() :] if match else text)
    if not re.fullmatch(_SERIES, found):
        return None
    series = [int(number) for number in re.findall(_N, found)]
    if match and match["down"]:
        return "true" if series == numbers[::-1] else "false"
    if series == numbers:
        return "answer" if question.wanted == "sort" else "true"
    shown = (list(map(int, question.items)), numbers[::-1])
    unlabelled = not match or not match[0]
    return "true" if unlabelled and question.wanted != "sort" and series in shown else "false"


def _listed(question: Question, text: str) -> Outcome | None:
    items, wanted = list(question.items), question.wanted
    if match := _ITEMS.fullmatch(text):
        return "true" if re.findall(_ITEM, match[1]) == items else "false"
    if wanted == "count" and re.fullmatch(_SERIES, text):
        counted = [str(n + 1) for n in range(len(items))]
        return "true" if re.findall(_N, text) == counted else "false"
    for kind, pattern in _IN_LIST:
        if match := pattern.fullmatch(text):
            return _place(question, kind, match.groupdict())
    return None


def _place(question: Question, kind: str, said: dict[str, str]) -> Outcome | None:
    items, wanted = list(question.items), question.wanted
    match kind:
        case "count":
            right, asked = said["number"] == str(len(items)), wanted == "count"
        case "item":
            return "answer" if said["item"] == question.answer else "false"
        case "place" | "start" | "end":
            at = {"start": 0, "end": -1}.get(kind, _ORDINALS.get(said.get("place", "")))
            right = at < len(items) and items[at] == said["item"]
            asked = {0: "first", -1: "last"}.get(at) == wanted
        case "after" | "next":
            old = said.get("old") or question.after
            if not old:
                return None
            right = [old, said["item"]] in [items[i : i + 2] for i in range(len(items) - 1)]
            asked = wanted == "after" and old == question.after
    if not right:
        return "false"
    return "answer" if asked else "true"
