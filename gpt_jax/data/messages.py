"""Chat turns as people write them -> canonical turns {"role", "content"}."""

from gpt_jax.data.values import kind_of, shown
from gpt_jax.errors import UserError

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
OF_TOOLS = {"tool", "function", "ipython", "observation", "function_call", "tool_call"}


class NotADemonstration(UserError):
    """A well-formed row from which nobody should learn, by default for an empty reply or one that
    is marked as bad.

    Attributes:
      reason: why, as the rest of a sentence that begins with a count.
    """

    def __init__(self, text: str, reason: str = "rows whose reply is empty or marked as bad"):
        super().__init__(text)
        self.reason = reason


def read_turns(value, key: str) -> list[dict]:
    """A list of turns with canonical roles; a system turn without words is left out.

    Args:
      value: a list of {"role", "content"} or of ShareGPT's {"from", "value"}. A content is a string
        or a list of parts {"type": "text", "text"}, which are joined.
      key: the name of the list, for the sentence.

    Returns:
      The turns. What the assistant says may be empty.

    Raises:
      UserError: a turn is broken, a tool's, or holds more than text.
    """
    if not isinstance(value, list):
        raise UserError(f"`{key}` must be a list of turns, not {kind_of(value)}")
    turns = [_turn(turn, f"turn {number} of `{key}`") for number, turn in enumerate(value, 1)]
    turns = [turn for turn in turns if turn["content"].strip() or turn["role"] != "system"]
    if not turns:
        raise UserError(f"`{key}` is empty")
    return turns


def _turn(turn, place: str) -> dict:
    if not isinstance(turn, dict):
        raise UserError(f"{place} needs `role` and `content`, but it is {kind_of(turn)}")
    who, what = "from" if "from" in turn else "role", "value" if "value" in turn else "content"
    role = turn.get(who)
    if not isinstance(role, str) or role not in {*ROLES, *OF_TOOLS}:
        said = shown(role) if isinstance(role, str) else kind_of(role)
        raise UserError(f"{place} needs `{who}` (one of {', '.join(ROLES)}), not {said}")
    if role in OF_TOOLS or turn.get("tool_calls") or turn.get("function_call"):
        raise UserError(
            f"{place} calls a tool or is a tool's answer, and only what is said can be read"
        )
    role, content = ROLES[role], turn.get(what)
    if content is None and role == "system":
        content = ""
    text = read_text(content, f"`{what}` in {place}")
    if role == "user" and not text.strip():
        raise UserError(f"`{what}` in {place} is empty")
    return {"role": role, "content": text}


def read_text(value, name: str) -> str:
    """A string, or a list of parts of text, as a string. It may be empty."""
    if isinstance(value, list):
        return "".join(_part(part, name) for part in value)
    if not isinstance(value, str):
        raise UserError(f"{name} must be a string, not {kind_of(value)}")
    return value


def _part(part, name: str) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise UserError(f'{name} has a part that is not an object like {{"type": "text", "text"}}')
    if part["type"] != "text":
        raise UserError(f"{name} has a part of type `{shown(part['type'])}`; only text can be read")
    if not isinstance(part.get("text"), str):
        raise UserError(f"{name} has a part whose `text` is {kind_of(part.get('text'))}")
    return part["text"]


def check_turns(turns: list[dict]) -> list[dict]:
    """The same turns, if they are a conversation: an optional system turn, then user and assistant
    in turns.

    Raises:
      UserError: the order is another.
      NotADemonstration: the assistant says nothing in one of them.
    """
    roles = [turn["role"] for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if spoken != [("user", "assistant")[i % 2] for i in range(len(spoken))] or not spoken:
        named = roles[:8] + ["..."] * (len(roles) > 8)
        raise UserError(
            f"turns must alternate user, assistant, ... after at most one system "
            f"turn, but they are {', '.join(named) or 'none'}"
        )
    if any(not turn["content"].strip() for turn in turns):
        raise NotADemonstration("a turn of the assistant is empty")
    return turns


def check_prompt(turns: list[dict]) -> list[dict]:
    """The same turns, if they are a conversation that waits for the assistant."""
    if not turns or turns[-1]["role"] != "user":
        raise UserError("a prompt must end with a turn of the user")
    return check_turns(turns)
