"""The text of `--reward`, read: "model:runs/reward/default + 0.5*rule:brevity + verifier:gsm8k".

    SPEC   TERM, or several joined by + or -
    TERM   [NUMBER*]ATOM, or [NUMBER*]FOLD(ATOM, ATOM, ...), where FOLD is min, mean or variance
    ATOM   model:RUN              a trained reward model (a run folder, or a model from elsewhere)
           rule:NAME[(ARGUMENTS)]       a rule of rl/rules.py
           verifier:NAME[(ARGUMENTS)]   a verifier of tasks/verifiers.py
           task:NAME              the score of a task
           MODULE:FUNCTION        any function of (record, text, stopped)

So an ensemble's most cautious member is min(model:A, model:B), and its mean less its spread (Coste
et al. 2023, eq. 4) is mean(model:A, model:B) - 0.5*variance(model:A, model:B). A + or - behind a
model needs a space before it. A name or an argument with spaces or brackets of its own stands in
double quotes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, get_args

from gpt_jax.errors import UserError
from gpt_jax.ranges import in_float32
from gpt_jax.rl.rules import RULES
from gpt_jax.tasks.task import Task
from gpt_jax.tasks.verifiers import VERIFIERS, Verifier

Fold = Literal["min", "mean", "variance"]
KINDS = ("model", "rule", "verifier", "task")
NUMBER = re.compile(r"(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)\s*\*\s*")


class Atom(NamedTuple):
    """One thing that scores a completion.

    Attributes:
      kind: of KINDS, or "function".
      name: of it; of a function MODULE:FUNCTION.
      arguments: what stands in its brackets; None without any.
      text: how it was written.
    """

    kind: str
    name: str
    arguments: str | None
    text: str


class Term(NamedTuple):
    """A weight and what it weighs.

    Attributes:
      weight: with its sign.
      fold: how several scores become one; None of one atom.
      atoms: those.
      text: how it was written, without its weight.
    """

    weight: float
    fold: Fold | None
    atoms: tuple[Atom, ...]
    text: str


def parse(spec: str) -> tuple[Term, ...]:
    """The terms of a spec.

    Raises:
      UserError: naming the column, from 1, where it is wrong, and what may stand there.
    """
    reader = _Reader(spec)
    sign = -1.0 if reader.take("-") else 1.0
    if sign > 0:
        reader.take("+")
    terms = [reader.term(sign)]
    while reader.rest:
        if reader.take("+"):
            terms.append(reader.term(1.0))
        elif reader.take("-"):
            terms.append(reader.term(-1.0))
        else:
            reader.fail("a + or - must stand here, between two terms")
    texts = [term.text for term in terms]
    if twice := [text for text in texts if texts.count(text) > 1]:
        raise UserError(f"--reward {spec!r} has {twice[0]} twice; add up its weights")
    return tuple(terms)


def of_model(folder: str) -> tuple[Term, ...]:
    """The spec model:FOLDER."""
    return (Term(1.0, None, (Atom("model", folder, None, f"model:{folder}"),), f"model:{folder}"),)


class _Reader:
    """A place in a spec, which `take` and its like move on."""

    def __init__(self, spec: str):
        self.spec, self.at = spec, 0
        self.skip()

    @property
    def rest(self) -> str:
        return self.spec[self.at :]

    def skip(self) -> None:
        self.at += len(self.rest) - len(self.rest.lstrip())

    def fail(self, what: str) -> NoReturn:
        raise UserError(f"--reward {self.spec!r}, column {self.at + 1}: {what}")

    def take(self, token: str) -> bool:
        if not self.rest.startswith(token):
            return False
        self.at += len(token)
        self.skip()
        return True

    def match(self, pattern: str | re.Pattern) -> str | None:
        found = re.compile(pattern).match(self.spec, self.at)
        if not found:
            return None
        self.at = found.end()
        return found[found.lastindex or 0]

    def term(self, sign: float) -> Term:
        begin = self.at
        number = self.match(NUMBER)
        weight = float(number or 1)
        if weight == 0 or not in_float32(weight):
            self.at = begin
            self.fail(f"the weight {number} is no number above 0 in float32")
        start = self.at
        fold = self.match(rf"({'|'.join(get_args(Fold))})\s*\(\s*")
        atoms = [self.atom()]
        if fold:
            while self.take(","):
                atoms.append(self.atom())
            if not self.take(")"):
                self.fail(f"a , or the ) of {fold}( must stand here")
            if len(atoms) == 1:
                self.at = start
                self.fail(f"{fold}( ) needs at least two to choose from")
        text = f"{fold}({', '.join(a.text for a in atoms)})" if fold else atoms[0].text
        return Term(sign * weight, fold, tuple(atoms), text)

    def atom(self) -> Atom:
        start = self.at
        kind = self.match(r"([A-Za-z_][\w.]*):")
        if kind is None:
            self.fail(
                "model:RUN, rule:NAME, verifier:NAME, task:NAME or MODULE:FUNCTION must stand "
                "here, perhaps behind a number and *"
            )
        if kind == "model":
            name = self.quoted() or self.match(r'[^\s,()*"]+')
        else:
            name = self.match(r"[A-Za-z_][\w.]*")
        if not name:
            self.fail(f"the name of a {kind if kind in KINDS else 'function'} must stand here")
        arguments = self.arguments() if kind in ("rule", "verifier") else None
        text = self.spec[start : self.at]
        self.skip()
        if kind not in KINDS:
            return Atom("function", f"{kind}:{name}", None, text)
        return Atom(kind, name, arguments, text)

    def quoted(self) -> str | None:
        return self.match(r'"([^"]*)"')

    def arguments(self) -> str | None:
        """What stands in brackets, where they come next: brackets within it are in pairs, or behind
        a backslash, or in a regular expression's [ ]."""
        if not self.rest.startswith("("):
            return None
        found = self.match(r'\(\s*"((?:[^"\\]|\\.)*)"\s*\)')
        if found is not None:
            return found.replace('\\"', '"')
        begin, depth, inside = self.at + 1, 0, False
        while self.rest:
            char = self.rest[0]
            self.at += 2 if char == "\\" else 1
            inside = (inside or char == "[") and char != "]"
            depth += 0 if inside else {"(": 1, ")": -1}.get(char, 0)
            if depth == 0:
                return self.spec[begin : self.at - 1]
        self.at = begin - 1
        self.fail(
            "this ( has no ); put the argument in double quotes if it has brackets of its own"
        )


def rule_of(atom: Atom, allow: Sequence[str] = ()) -> Verifier:
    """What asks for the score of an atom that is no model.

    Args:
      atom: of any other kind.
      allow: the sandbox's protections that may be missing.

    Raises:
      UserError: if there is no such thing, or it does not take these arguments.
    """
    if atom.kind == "function":
        return _function(atom)
    if atom.kind == "task":
        return _task(atom)
    makers: dict[str, Callable[..., Verifier]] = RULES if atom.kind == "rule" else VERIFIERS
    if atom.name not in makers:
        raise UserError(
            f"--reward: there is no {atom.kind} {atom.name!r}; known are {', '.join(makers)}"
        )
    make = makers[atom.name]
    names = [name for name in inspect.signature(make).parameters if name != "allow"]
    more = {"allow": tuple(allow)} if "allow" in inspect.signature(make).parameters else {}
    given = [] if atom.arguments is None else [atom.arguments]
    if len(names) != 1:  # a comma in the one argument that there is, is a part of it
        given = [part.strip() for one in given for part in one.split(",") if part.strip()]
    try:
        inspect.signature(make).bind(*given, **more)
    except TypeError as error:
        takes = f"({', '.join(names).upper()})" if names else "no arguments"
        raise UserError(f"--reward {atom.text}: {atom.name} takes {takes}") from error
    try:
        return make(*given, **more)
    except UserError as error:
        raise UserError(f"--reward {atom.text}: {error}") from error


def _task(atom: Atom) -> Verifier:
    where = f"gpt_jax.tasks.{atom.name}"
    there = atom.name.isidentifier() and importlib.util.find_spec(where)
    task = getattr(importlib.import_module(where), atom.name.upper(), None) if there else None
    if not isinstance(task, Task) or task.score is None:
        raise UserError(f"--reward: there is no task {atom.name!r} with a score; give microworld")

    def look(record: dict) -> None:
        try:
            task.score(record, "", True)
        except Exception as error:  # of whatever kind: the record is none of the task's
            cause = f"{type(error).__name__}: {error}"
            raise UserError(f"is no question of {atom.name} ({cause}); give its prompts") from error

    return Verifier(task.score, look)


def _function(atom: Atom) -> Verifier:
    module, name = atom.name.rsplit(":", 1)
    try:
        function = _find(module, name)
    except Exception as error:  # whatever the user's own module raises is the message
        raise UserError(
            f"--reward {atom.text}: it cannot be imported ({type(error).__name__}: {error}); kinds "
            f"that are known are {', '.join(KINDS)}, and else it is MODULE:FUNCTION"
        ) from error
    try:
        inspect.signature(function).bind({}, "", True)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--reward {atom.text}: it must be a function of (record, text, stopped) ({error})"
        ) from error
    return Verifier(functools.partial(call, module=module, name=name))


@functools.cache
def _find(module: str, name: str) -> Callable[[dict, str, bool], Any]:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def call(record: dict, text: str, stopped: bool, *, module: str, name: str) -> Any:
    """What a function says that is known by its names, wherever this runs."""
    return _find(module, name)(record, text, stopped)


def look_at(atom: Atom, rule: Verifier, records: Sequence[dict]) -> None:
    """Sees that every record has what a rule reads.

    Raises:
      UserError: naming the first row that has not.
    """
    for number, record in enumerate(records):
        try:
            rule.look(record)
        except UserError as error:
            raise UserError(f"--reward {atom.text}: the prompt of row {number} {error}") from error
