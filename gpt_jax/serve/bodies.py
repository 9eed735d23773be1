"""What a client asks for, read from the JSON of OpenAI's API.

Whatever cannot be met is refused with a sentence; what is known to change nothing is passed over;
nothing is left out in silence.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.generate.sampling import Sampling
from gpt_jax.text.chat import Message

# Of the client's own book-keeping; and what asks for what is done anyhow.
NO_MATTER = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
MORE = ("top_k", "min_p", "repetition_penalty")  # what others than OpenAI have besides
SHARED = ("model", "n", "stop", "stream", "stream_options", "logit_bias", "logprobs", *SAMPLING)
CHAT = ("messages", "max_tokens", "max_completion_tokens", "top_logprobs", "response_format")
TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
MOST_COMPLETIONS = 128
MOST_STOPS = 16

Format = Literal["text", "json", "schema"]


class Wanted(NamedTuple):
    """One request.

    Attributes:
      prompts: texts, token ids, or one conversation.
      sampling: how to draw, `n` included.
      model: whose name it asks for; None: whichever is there.
      stream: whether tokens are sent as they come.
      usage: whether a stream ends with the numbers of tokens.
      format: what the text is to be; of "schema" the JSON schema stands beside it.
      schema: or None.
      tools: the functions that may be called, by name.
      choice: "none", "auto", "required", or the name of one of them.
    """

    prompts: list[str] | list[list[int]] | list[list[Message]]
    sampling: Sampling
    model: str | None
    stream: bool
    usage: bool
    format: Format = "text"
    schema: dict | None = None
    tools: Mapping[str, dict] = {}
    choice: str = "none"


class Reader:
    """The values of a JSON object, each of the type that it must have."""

    def __init__(self, body: Any):
        if not isinstance(body, dict):
            raise UserError("the body must be a JSON object")
        self.body = body

    def only(self, *names: str) -> None:
        """Raises a UserError if there is anything else that matters."""
        known = {*names, *NO_MATTER}
        if unknown := [name for name in self.body if name not in known]:
            raise UserError(
                f"{unknown[0]!r} is not supported here; leave it out (known: "
                f"{', '.join(sorted(names))})"
            )

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A value; `default` where it is missing or null."""
        value = self.body.get(name)
        if value is None:
            return default
        wrong_bool = isinstance(value, bool) and kind is not bool
        if wrong_bool or not isinstance(value, kind):
            names = [k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,))]
            raise UserError(f"{name} must be of type {' or '.join(names)}")
        return value

    def number(self, name: str, low: float, high: float, default: float) -> float:
        """A finite number of a range."""
        value = self.get(name, (int, float), default)
        if not math.isfinite(value) or not low <= value <= high:
            raise UserError(f"{name} is {value}, but must be {low} to {high}")
        return value


def chat(body: Any, limit: int) -> Wanted:
    """The body of /v1/chat/completions.

    Args:
      body: parsed JSON.
      limit: the most new tokens where the client does not say.

    Raises:
      UserError: saying what is wrong.
    """
    read = Reader(body)
    read.only(*SHARED, *MORE, *CHAT, *TOOLS)
    top = read.get("top_logprobs", int, 0)
    if not 0 <= top <= 20:
        raise UserError(f"top_logprobs is {top}, but must be 0 to 20")
    if top and not read.get("logprobs", bool, False):
        raise UserError("top_logprobs needs logprobs to be true")
    wanted = max(top, 1) if read.get("logprobs", bool, False) else 0
    limit = read.get("max_completion_tokens", int, read.get("max_tokens", int, limit))
    tools, choice = _tools(read)
    kind, schema = _format(read.get("response_format", dict))
    if tools and kind != "text":
        raise UserError("tools and response_format cannot be had together; leave one out")
    return _finish(
        read, [messages_of(read)], wanted, limit,
        format=kind, schema=schema, tools=tools, choice=choice,
    )  # fmt: skip


def completion(body: Any, limit: int) -> Wanted:
    """The body of /v1/completions; as for `chat`."""
    read = Reader(body)
    read.only(*SHARED, *MORE, "prompt", "max_tokens", "echo", "best_of", "suffix")
    if read.get("echo", bool, False) or read.get("suffix", str):
        raise UserError("echo and suffix are not supported; leave them out")
    if read.get("best_of", int, 1) != read.get("n", int, 1):
        raise UserError("best_of is not supported beside n; leave it out")
    prompt = read.get("prompt", (str, list))
    if isinstance(prompt, str):
        prompts = [prompt]
    elif prompt and all(isinstance(one, str) for one in prompt):
        prompts = list(prompt)
    elif prompt and all(type(one) is int for one in prompt):
        prompts = [prompt]
    elif prompt and all(
        isinstance(one, list) and one and all(type(i) is int for i in one) for one in prompt
    ):
        prompts = list(prompt)
    else:
        raise UserError("prompt must be a text, token ids, or a list of these, and not be empty")
    wanted = read.get("logprobs", int, 0)
    if not 0 <= wanted <= 20:
        raise UserError(f"logprobs is {wanted}, but must be 0 to 20")
    wanted = max(wanted, 1) if read.body.get("logprobs") is not None else 0
    return _finish(read, prompts, wanted, read.get("max_tokens", int, limit))


def _finish(read: Reader, prompts: list, logprobs: int, limit: int, **more: Any) -> Wanted:
    """What both have in common."""
    n = read.get("n", int, 1)
    if not 1 <= n * len(prompts) <= MOST_COMPLETIONS:
        raise UserError(f"n times the prompts must be 1 to {MOST_COMPLETIONS}")
    stop = read.get("stop", (str, list), [])
    stop = [stop] if isinstance(stop, str) else stop
    if len(stop) > MOST_STOPS or not all(isinstance(one, str) and one for one in stop):
        raise UserError(f"stop must be at most {MOST_STOPS} texts, and none of them empty")
    bias = read.get("logit_bias", dict, {})
    if len(bias) > 1024 or not all(name.isascii() and name.isdigit() for name in bias):
        raise UserError("logit_bias must map at most 1,024 token ids to numbers")
    pairs = [(int(name), Reader(bias).number(name, -100, 100, 0.0)) for name in bias]
    stream = read.get("stream", bool, False)
    options = Reader(read.get("stream_options", dict, {}))
    options.only("include_usage", "include_obfuscation")
    if limit < 1:
        raise UserError(f"the new tokens must be 1 or more, not {limit}")
    seed = read.get("seed", int)
    sampling = Sampling(
        max_new_tokens=limit,
        temperature=read.number("temperature", 0, 2, 1.0),
        top_p=read.number("top_p", 0, 1, 1.0),
        top_k=int(read.number("top_k", 0, 2**20, 0)),
        min_p=read.number("min_p", 0, 1, 0.0),
        repetition_penalty=read.number("repetition_penalty", 0.1, 10, 1.0),
        presence_penalty=read.number("presence_penalty", -2, 2, 0.0),
        frequency_penalty=read.number("frequency_penalty", -2, 2, 0.0),
        logit_bias=tuple(pairs),
        stop=tuple(stop),
        n=n,
        logprobs=logprobs,
        seed=secrets.randbits(32) if seed is None else seed % 2**32,
    )
    model = read.get("model", str)
    return Wanted(
        prompts, sampling, model, stream, options.get("include_usage", bool, False), **more
    )


def messages_of(read: Reader) -> list[Message]:
    """A conversation in the three roles that templates know; results of tools are the user's."""
    found = read.get("messages", list)
    if not found:
        raise UserError("messages must be a list with at least one message")
    messages = []
    for number, one in enumerate(found, 1):
        turn = Reader(one)
        turn.only("role", "content", "name", "tool_calls", "tool_call_id", "refusal")
        role, text = turn.get("role", str), _text(turn, number)
        if role == "assistant":
            calls = [_call_text(call) for call in turn.get("tool_calls", list, [])]
            text = "\n".join(filter(None, [text, *calls]))
        elif role == "tool":
            role, text = "user", f"<tool_response>\n{text}\n</tool_response>"
        elif role == "developer":
            role = "system"
        elif role not in ("system", "user"):
            raise UserError(
                f"message {number}: the role is {role!r}, but must be system, developer, user, "
                "assistant or tool"
            )
        if not text:
            raise UserError(f"message {number} has no text; say something")
        messages.append(Message(role=role, content=text))
    if messages[-1]["role"] != "user":
        raise UserError("the last message must be the user's, or a tool's")
    return messages


def _text(turn: Reader, number: int) -> str:
    """The words of a message, which may be a list of parts."""
    content = turn.get("content", (str, list), "")
    if isinstance(content, str):
        return content
    parts = [Reader(part) for part in content]
    if any(part.get("type", str) != "text" for part in parts):
        raise UserError(f"message {number}: this model reads text only; leave other parts out")
    return "".join(part.get("text", str, "") for part in parts)


def _call_text(call: Any) -> str:
    function = Reader(Reader(call).get("function", dict, {}))
    arguments = function.get("arguments", str, "{}")
    return f'<tool_call>\n{{"name": {json.dumps(function.get("name", str, ""))}, "arguments": {arguments}}}\n</tool_call>'  # noqa: E501


def _format(wanted: dict | None) -> tuple[Format, dict | None]:
    """`response_format`."""
    if wanted is None:
        return "text", None
    read = Reader(wanted)
    read.only("type", "json_schema")
    kind = read.get("type", str)
    if kind == "text":
        return "text", None
    if kind == "json_object":
        return "json", {"type": "object"}
    if kind != "json_schema":
        raise UserError(
            f"response_format.type is {kind!r}, but must be text, json_object or json_schema"
        )
    schema = Reader(read.get("json_schema", dict, {})).get("schema", dict)
    if schema is None:
        raise UserError("response_format.json_schema.schema is missing; give a JSON schema")
    return "schema", schema


def _tools(read: Reader) -> tuple[dict[str, dict], str]:
    """The functions by their names, and which of them is to be called."""
    tools = {}
    for one in read.get("tools", list, []):
        tool = Reader(one)
        if tool.get("type", str) != "function":
            raise UserError("a tool's type must be function")
        function = Reader(tool.get("function", dict, {}))
        function.only("name", "description", "parameters", "strict")
        name = function.get("name", str)
        if not name:
            raise UserError("a tool's function must have a name")
        tools[name] = function.body
    choice = read.get("tool_choice", (str, dict), "auto" if tools else "none")
    if isinstance(choice, dict):
        choice = Reader(Reader(choice).get("function", dict, {})).get("name", str)
        if choice not in tools:
            raise UserError(f"tool_choice names {choice!r}, which is not among the tools")
    elif choice not in ("none", "auto", "required"):
        raise UserError(
            f"tool_choice is {choice!r}, but must be none, auto, required or a function"
        )
    if choice != "none" and not tools:
        raise UserError("tool_choice needs tools; give some")
    return tools, choice
