"""Tools that a model may use, as functions of text, and what it is told of them.

Nothing here reaches the network, and code is run in `tasks.sandbox` alone. A tool that fails says
so in its answer, which the model then reads: it is never the end of a run.
"""

from __future__ import annotations

import ast
import fractions
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.tasks import sandbox

MOST = 2000  # characters of an answer
_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_DIGITS = 10**40  # numbers are no larger


class Tool(NamedTuple):
    """One tool.

    Attributes:
      name: as the model calls it.
      use: what it does and takes, in a sentence for the model.
      call: `argument -> answer`; it may raise UserError or ValueError.
    """

    name: str
    use: str
    call: Callable[[str], str]


def use(tools: Sequence[Tool], name: str, argument: str) -> str:
    """What a tool answers, or why it does not."""
    found = {tool.name.lower(): tool for tool in tools}.get(name.strip().lower())
    if found is None:
        return f"There is no tool {name.strip()!r}; there is {', '.join(t.name for t in tools)}."
    try:
        answer = found.call(argument.strip())
    except (UserError, ValueError, ArithmeticError, RecursionError) as error:
        return f"Error: {error}"
    return answer if len(answer) <= MOST else f"{answer[:MOST]} [cut]"


def described(tools: Sequence[Tool]) -> str:
    """The lines that a model is told of its tools."""
    return "\n".join(f"{tool.name}[...]: {tool.use}" for tool in tools)


def calculate(expression: str) -> str:
    """The value of an expression of numbers, + - * / // % and brackets, exactly."""
    text = expression.replace("\N{MULTIPLICATION SIGN}", "*").replace("\N{MINUS SIGN}", "-")
    try:
        tree = ast.parse(text.replace(",", ""), mode="eval").body
    except (SyntaxError, MemoryError) as error:
        raise ValueError(f"{expression!r} is no expression") from error
    value = _value(tree)
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.10g}"


def _value(node: ast.expr) -> fractions.Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = fractions.Fraction(str(node.value))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        value = -value if isinstance(node.op, ast.USub) else value
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        value = fractions.Fraction(_BINARY[type(node.op)](_value(node.left), _value(node.right)))
    else:
        raise ValueError("only numbers, + - * / // % and brackets are allowed")
    if max(abs(value.numerator), value.denominator) > _DIGITS:
        raise ValueError("the numbers are too large")
    return value


CALCULATOR = Tool("Calculator", "the value of an expression, as 12 * (3 + 4)", calculate)


def python(seconds: float = 5.0) -> Tool:
    """Runs Python in the sandbox and gives what it prints."""
    limits = sandbox.Limits(seconds=seconds)

    def call(code: str) -> str:
        found = sandbox.run(code, limits)
        output = found.output.strip() or "(nothing was printed)"
        return output if found.status == "passed" else f"{found.status}: {output}"

    return Tool("Python", "runs a program and gives what it prints", call)


def look_up(facts: Mapping[str, str], name: str = "LookUp") -> Tool:
    """Gives what is known under a name."""
    known = {key.lower(): value for key, value in facts.items()}

    def call(key: str) -> str:
        return known.get(key.lower(), f"Nothing is known of {key}.")

    return Tool(name, "what is known of a name", call)


def search(find: Callable[[str], Sequence[str]], name: str = "Search") -> Tool:
    """Gives the passages that a retriever finds."""
    return Tool(
        name,
        "passages of documents that fit some words",
        lambda words: "\n".join(find(words)) or "Nothing was found.",
    )


def from_openapi(document: Mapping[str, Any], send: Callable[[str, str, str], str]) -> list[Tool]:
    """The operations that an OpenAPI snippet describes, as tools: a plugin.

    Args:
      document: with `paths`; each operation needs an `operationId`.
      send: `(method, path, argument) -> answer` does the call; who may be reached is its business.

    Raises:
      UserError: if it describes no operation.
    """
    tools = []
    for path, operations in document.get("paths", {}).items():
        for method, operation in operations.items():
            name = operation.get("operationId")
            if not name:
                raise UserError(f"{method.upper()} {path} has no operationId; give it one")
            words = operation.get("summary") or operation.get("description") or f"{method} {path}"
            taken = [parameter["name"] for parameter in operation.get("parameters", [])]
            takes = f" ({', '.join(taken)})" if taken else ""

            def call(argument: str, method: str = method, path: str = path) -> str:
                return send(method.upper(), path, argument)

            tools.append(Tool(name, f"{words}{takes}", call))
    if not tools:
        raise UserError("the OpenAPI document has no paths with operations; give one that has")
    return tools
