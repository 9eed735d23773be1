"""Functions that a model may call: told in words, bound by a grammar, read back as calls.

    <tool_call>
    {"name": "look_up", "arguments": {"name": "Mira"}}
    </tool_call>

is the form that Hermes and Qwen models were trained on. A model that never saw it is held to it by
the constraint, and to the parameters' JSON schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from gpt_jax.generate.constraints import WRITTEN, Constrain
from gpt_jax.generate.requests import Constraint
from gpt_jax.text.chat import Message

BEGINS, ENDS = "<tool_call>\n", "\n</tool_call>"


def told(messages: Sequence[Message], tools: Mapping[str, dict]) -> list[Message]:
    """The conversation with the functions described by the system."""
    lines = "\n".join(json.dumps({"type": "function", "function": tool}) for tool in tools.values())
    words = (
        "You may call functions to answer the user. These are there:\n<tools>\n"
        f"{lines}\n</tools>\nTo call one, answer with its name and arguments alone:\n"
        f'{BEGINS}{{"name": NAME, "arguments": {{...}}}}{ENDS}'
    )
    if messages[0]["role"] == "system":
        first, *rest = messages
        return [Message(role="system", content=f"{first['content']}\n\n{words}"), *rest]
    return [Message(role="system", content=words), *messages]


def constraint(
    constrain: Constrain, tools: Mapping[str, dict], choice: str
) -> Callable[[], Constraint]:
    """A call of one of the functions, or, if `choice` is "auto", any text instead.

    Args:
      constrain: of the model's tokenizer.
      tools: by name.
      choice: "auto", "required", or a function's name.
    """
    some = {choice: tools[choice]} if choice in tools else tools
    schemas = [
        {
            "type": "object",
            "properties": {
                "name": {"const": name},
                "arguments": tool.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, tool in some.items()
    ]
    schema = json.dumps({"anyOf": schemas, "x-guidance": WRITTEN})
    call = f"call: {json.dumps(BEGINS)} %json {schema} {json.dumps(ENDS)}"
    if choice != "auto":
        return constrain.grammar(f"start: call\n{call}")
    return constrain.grammar(f"start: call | text\ntext: /[^<](.|\\n)*/\n{call}")


def calls_of(text: str) -> list[tuple[str, str]]:
    """The (name, arguments as JSON) of the call that a text is; none if it is just a text."""
    stripped = text.strip()
    if not (stripped.startswith(BEGINS.strip()) and stripped.endswith(ENDS.strip())):
        return []
    found = json.loads(stripped.removeprefix(BEGINS.strip()).removesuffix(ENDS.strip()))
    return [(found["name"], json.dumps(found["arguments"]))]
