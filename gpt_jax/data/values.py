"""What a JSON value is checked for before it is read as a row, and how it is named to the user."""

from gpt_jax.errors import UserError

DEEPEST = 50  # far below what makes Python's own recursive functions (copy, json, ==) give up
MOST_NAMED = 12


def check_row(row) -> None:
    """Sees to it that a row is an object, or a text, which can be written and copied.

    Raises:
      UserError: the row is neither object nor text, any text in it holds half of a character (JSON
        can spell a lone surrogate, but UTF-8 and so every tokenizer cannot), or lists and objects
        lie in each other more than `DEEPEST` deep.
    """
    if not isinstance(row, dict | str):
        raise UserError(f"a row must be a JSON object, not {kind_of(row)}")
    level, depth = [row], 0
    while level:
        if depth > DEEPEST:
            raise UserError(f"its lists and objects lie in each other more than {DEEPEST} deep")
        below = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str) and not value.isascii():
                _check_text(value)
        level, depth = below, depth + 1


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        before = shown(text[max(0, error.start - 20) : error.start])
        raise UserError(
            f"character {error.start + 1} of a text in it, after {before}, is {half}, half of a "
            f"surrogate pair and no character; remove it"
        ) from None


def text_of(data: bytes) -> str:
    """The text that bytes hold; a UserError if they hold none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"byte {data[error.start]:#04x} is not UTF-8") from None


def object_of(row) -> dict:
    """The row, if it is an object."""
    if not isinstance(row, dict):
        raise UserError(f"a row must be a JSON object, not {kind_of(row)}")
    return row


def text_at(row: dict, key: str) -> str:
    """The text under a key, which may not be blank."""
    if key not in row:
        raise UserError(f"`{key}` is missing; the keys are {keys_of(row)}")
    if not isinstance(row[key], str):
        raise UserError(f"`{key}` must be a string, not {kind_of(row[key])}")
    if not row[key].strip():
        raise UserError(f"`{key}` is empty")
    return row[key]


def list_at(row: dict, key: str) -> list:
    """The list under a key, which may be empty."""
    if not isinstance(row.get(key), list):
        raise UserError(f"`{key}` must be a list; the keys are {keys_of(row)}")
    return row[key]


def keys_of(row: dict) -> str:
    """The names of a row's keys, for a sentence."""
    named = [f"`{shown(key)}`" for key in list(row)[:MOST_NAMED]]
    return ", ".join(named + ["..."] * (len(row) > MOST_NAMED)) or "none"


def kind_of(value) -> str:
    """What a value is, for a sentence."""
    return "null" if value is None else type(value).__name__


def shown(text: str) -> str:
    """A text of the user's as a part of a sentence: short, and on one line."""
    text = text if len(text) <= 40 else f"{text[:37]}..."
    return text if text.isprintable() and text else repr(text)
