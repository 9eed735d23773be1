"""Verifiers: whether an answer is right, 1.0 or 0.0, by what a record says about it.

    exact(FIELD)               the answer in the record's field, or one of a list of answers
    number(FIELD, TOLERANCE)   a number that is as close
    gsm8k                      the number behind the "####" in the record's `answer`
    regex(PATTERN)             the text has a match of a regular expression
    schema(FILE)               the text is JSON that a JSON Schema allows
    tests(SECONDS)             the text is Python that passes the record's unit tests, in a sandbox

A field is one of the row as it was in the file. Whatever a model writes is right or wrong: only a
record, a schema or a machine that is not as it must be is an error. What is the answer of a longer
text, and the number in it, is said in `reading.py`.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.tasks import sandbox
from gpt_jax.tasks.reading import answer_in, number_in, plain
from gpt_jax.tasks.sandbox.child import undefined
from gpt_jax.tasks.time_limit import time_limit

PATIENCE = 1.0  # seconds for one match: more is an expression that explodes, not a long text


class Verifier(NamedTuple):
    """A rule with what it needs.

    Attributes:
      score: `(record, text, stopped) -> float`, a function that can be pickled.
      look: `record -> None`; raises a UserError, the rest of a sentence that begins with the
        record, if that has not what `score` reads.
      seconds: the longest that it takes by its own limits.
    """

    score: Callable[[dict, str, bool], float]
    look: Callable[[dict], Any] = lambda record: None
    seconds: float = 0.0


def field_of(record: dict, name: str) -> Any:
    """A field of the row that a prompt was made from.

    Raises:
      UserError: if it has none of that name.
    """
    row = record.get("record", record)
    if not isinstance(row, dict) or row.get(name) is None:
        there = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"has no `{name}` (it has {there}); name another field")
    return row[name]


def exact(field: str = "answer") -> Verifier:
    """The answer itself, whatever its case, quotes, Markdown or full stop."""
    return Verifier(
        functools.partial(_exact, field=field), functools.partial(_answers, field=field)
    )


def _answers(record: dict, field: str) -> list[str]:
    given = field_of(record, field)
    answers = [plain(str(one)) for one in (given if isinstance(given, list) else [given])]
    if not answers or not all(answers):
        raise UserError(f"has an empty `{field}`; remove it, or name another field")
    return answers


def _exact(record: dict, text: str, stopped: bool, *, field: str) -> float:
    return float(plain(answer_in(text)) in _answers(record, field))


def number(field: str = "answer", tolerance: str = "0") -> Verifier:
    """A number that differs from the field's by `tolerance` at the most."""
    try:
        most = Fraction(tolerance)
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"the tolerance {tolerance!r} is no number") from error
    if most < 0:
        raise UserError(f"the tolerance {tolerance!r} is negative")
    return Verifier(
        functools.partial(_number, field=field, tolerance=most),
        functools.partial(_reference, field=field),
    )


def gsm8k() -> Verifier:
    """The last number of Cobbe et al.'s (2021) solutions, which stands behind "####"."""
    return number()


def _reference(record: dict, field: str) -> Fraction:
    found = number_in(str(field_of(record, field)))
    if found is None:
        raise UserError(f"has no number in `{field}`; remove it, or name another field")
    return found


def _number(record: dict, text: str, stopped: bool, *, field: str, tolerance: Fraction) -> float:
    found = number_in(text)
    return float(found is not None and abs(found - _reference(record, field)) <= tolerance)


def regex(pattern: str) -> Verifier:
    r"""Whether an expression matches anywhere; \A and \Z (or ^ and $) tie it to the ends."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}") from error
    return Verifier(functools.partial(_regex, pattern=pattern), seconds=PATIENCE)


def _regex(record: dict, text: str, stopped: bool, *, pattern: str) -> float:
    with time_limit(PATIENCE):
        return float(re.search(pattern, text) is not None)


def schema(file: str) -> Verifier:
    """JSON, bare or in a fence, that a JSON Schema in a file allows. Nothing is fetched: its
    references must be its own."""
    try:
        import jsonschema
    except ImportError as error:
        raise UserError('a schema needs jsonschema: pip install "gpt_jax[rewards]"') from error
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        jsonschema.validators.validator_for(found).check_schema(found)
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        cause = getattr(error, "message", str(error)).splitlines()[0]
        raise UserError(f"{file}: no JSON Schema can be read ({cause}); mend it") from error
    for reference in _references(found):
        if not reference.startswith("#"):
            raise UserError(f"{file}: it refers to {reference}; copy that into its $defs")
    return Verifier(functools.partial(_schema, schema=json.dumps(found)), seconds=PATIENCE)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (str(node[key]) for key in ("$ref", "$dynamicRef") if key in node)
    for child in node.values() if isinstance(node, dict) else node if type(node) is list else ():
        yield from _references(child)


@functools.cache
def _validator(schema: str) -> Any:
    import jsonschema

    found = json.loads(schema)
    return jsonschema.validators.validator_for(found)(found)


def _schema(record: dict, text: str, stopped: bool, *, schema: str) -> float:
    fenced = re.fullmatch(r"\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*", text, re.DOTALL | re.IGNORECASE)
    try:
        found = json.loads(
            fenced[1] if fenced else text, parse_constant=_refuse, object_pairs_hook=_without_twins
        )
        with time_limit(PATIENCE):
            return float(_validator(schema).is_valid(found))
    except (ValueError, RecursionError):  # the text is no JSON, or nested beyond reading
        return 0.0


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def tests(seconds: str = "5", allow: tuple[str, ...] = ()) -> Verifier:
    """Unit tests in `test` with an `entry_point` (HumanEval), or in `test_list` (MBPP).

    The text is a program, alone or in a fence, or goes on where the prompt ends.
    """
    sandbox.check_protections(allow)
    try:
        limits = sandbox.Limits(seconds=float(seconds))
    except ValueError as error:
        raise UserError(f"{seconds!r} is no number of seconds") from error
    score = functools.partial(_tests, limits=limits, allow=allow)
    return Verifier(score, _test_parts, seconds=limits.seconds + 1)


class _Tests(NamedTuple):
    code: str
    names: frozenset[str]  # of the functions that are tested
    setup: str  # that the tests may use, though the solution has it, too


def _test_parts(record: dict) -> _Tests:
    row = record.get("record", record)
    if isinstance(row, dict) and "test" in row and "entry_point" in row:
        setup, entry = str(row.get("prompt", "")), str(row["entry_point"])
        code, names = f"{row['test']}\n\ncheck({entry})\n", {entry}
    else:
        listed = field_of(record, "test_list")
        listed = listed if isinstance(listed, list) else [listed]
        setup, code = str(row.get("test_setup_code") or ""), "\n".join(map(str, listed))
        names = None
    if not _parsed(setup):
        setup = ""
    if not _parsed(code):
        raise UserError("has tests that are no Python, or none; mend them")
    names = undefined(code, dict.fromkeys(_defined(setup))) if names is None else names
    if not names:
        raise UserError("has tests that call no function of the answer; mend them")
    return _Tests(code, frozenset(names), setup)


def _tests(
    record: dict, text: str, stopped: bool, *, limits: sandbox.Limits, allow: tuple
) -> float:
    parts = _test_parts(record)
    program = solution_of(text, parts.names, parts.setup)
    outcome = sandbox.run_tests(
        program, parts.code, setup=parts.setup, names=parts.names, limits=limits, allow=allow
    )
    return float(outcome.status == "passed")


def solution_of(text: str, names: frozenset[str], prompt: str) -> str:
    """The program in a text: what defines the names, in a fence or as it stands, behind the
    prompt's imports; else the prompt with the text as its next lines."""
    fence = r"```(?:python3?|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)"
    fenced = re.findall(fence, text, re.DOTALL | re.IGNORECASE)
    for code in fenced or [text]:
        if names <= _defined(code):
            return f"{prompt}\n\n{code}\n"
    body, prompt = fenced[0] if fenced else text, prompt.rstrip("\n") + "\n"
    # Who answers in a chat may have lost the spaces before the first line, or before all.
    for lines in (body, f"    {body}", textwrap.indent(body, "    ")):
        if _parsed(prompt + lines):
            return prompt + lines
    lines = body.split("\n")
    ends = (n for n, line in enumerate(lines) if n and line.strip() and not line[0].isspace())
    return prompt + "\n".join(lines[: next(ends, len(lines))]) + "\n"


def _parsed(code: str) -> ast.Module | None:
    """The syntax tree; None of what is no Python, or empty."""
    try:
        tree = ast.parse(code)
        compile(tree, "<code>", "exec", dont_inherit=True)  # which sees a `return` at the top
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if tree.body else None


def _defined(code: str) -> set[str]:
    """The names that a program gives at its top."""
    found, tree = set(), _parsed(code)
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return found


VERIFIERS: dict[str, Callable[..., Verifier]] = {
    "exact": exact,
    "number": number,
    "gsm8k": gsm8k,
    "regex": regex,
    "schema": schema,
    "tests": tests,
}
