"""Replies as people write them, with or without their prompt in front -> a prompt and K texts."""

from gpt_jax.data import messages, transcripts
from gpt_jax.data.values import kind_of
from gpt_jax.errors import UserError

ECHO = 20  # a reply may well begin with a prompt shorter than this: a greeting greets back


def follow(prompt: list[dict], replies: dict) -> tuple[list[dict], list[str]]:
    """What K replies have in common, and how each goes on.

    A prompt that all replies repeat in front is not said twice. Replies that are conversations are
    followed to the first reply of the assistant in which they part, and only this is compared.

    Args:
      prompt: the turns before, none only where lists of turns bring them.
      replies: name -> a string, one turn, or a list of turns.

    Returns:
      The turns up to the user's last, and a text for each reply, which may be empty.

    Raises:
      UserError: a reply has no text, or other turns in front than the prompt.
    """
    texts = list(replies.values())
    if texts and all(isinstance(text, str) for text in texts):
        return _follow_strings(prompt, texts)
    return _split([conversation(prompt, value, name) for name, value in replies.items()], replies)


def follow_transcripts(replies: dict) -> tuple[list[dict], list[str]]:
    """As `follow`, where the replies are hh-rlhf transcripts that bring the prompt."""
    for name, text in replies.items():
        if not isinstance(text, str) or not transcripts.is_transcript(text):
            raise UserError(
                f"without a `prompt`, `{name}` must be a transcript that begins with "
                f'"\\n\\nHuman:" and holds "\\n\\nAssistant:", or a list of turns'
            )
    shared, texts = _split([transcripts.parse(text) for text in replies.values()], replies)
    return transcripts.without_silence(shared), texts


def split(conversations: list[list[dict]]) -> tuple[list[dict], list[str]] | None:
    """The turns that conversations share, and the first replies of the assistant that differ.

    Where they part in a turn of the user, or not at all, the reply before is taken: a tie.

    Returns:
      None if they share no turn before a reply of the assistant.
    """
    first, *others = conversations
    length = min(len(turns) for turns in conversations)
    same = next((i for i in range(length) if any(turns[i] != first[i] for turns in others)), length)
    for end in range(min(same, length - 1), 0, -1):
        if all(turns[end]["role"] == "assistant" for turns in conversations):
            return first[:end], [turns[end]["content"] for turns in conversations]
    return None


def _split(conversations: list[list[dict]], replies: dict) -> tuple[list[dict], list[str]]:
    found = split(conversations)
    if found is None:
        named = " and ".join(f"`{name}`" for name in replies)
        raise UserError(f"{named} share no turn of the user, so there is no prompt")
    return found


def _follow_strings(prompt: list[dict], texts: list[str]) -> tuple[list[dict], list[str]]:
    if all(transcripts.is_transcript(text) for text in texts):
        shared, rest = split([transcripts.parse(text) for text in texts]) or ([], [])
        shared = transcripts.without_silence(shared)
        if shared and shared[: len(prompt)] == prompt:
            return shared, rest
    asked = prompt[-1]["content"]
    repeated = len(texts) > 1 and all(text.startswith(asked) for text in texts)
    if repeated and (len(asked) >= ECHO or asked.rstrip().endswith(("?", "？"))):
        texts = [text.removeprefix(asked).lstrip() for text in texts]
    return prompt, texts


def conversation(prompt: list[dict], value, name: str) -> list[dict]:
    """The prompt and one reply as turns, the prompt once.

    Raises:
      UserError: the reply is none, or a conversation that begins with other turns than the prompt.
    """
    if isinstance(value, str):
        return [*prompt, {"role": "assistant", "content": value}]
    if not isinstance(value, dict | list):
        raise UserError(f"`{name}` must be a string or a list of turns, not {kind_of(value)}")
    if isinstance(value, dict) and not {"from", "role"} & set(value):
        value = {"role": "assistant", **value}
    turns = messages.read_turns([value] if isinstance(value, dict) else value, name)
    if turns[0]["role"] == "assistant" or not prompt:
        return [*prompt, *turns]
    (system, asked), (own_system, said) = _without_system(prompt), _without_system(turns)
    if _stripped(said[: len(asked)]) != _stripped(asked) or (
        system and own_system and system != own_system
    ):
        raise UserError(f"`{name}` begins with other turns than the prompt")
    if len(said) == len(asked):
        raise UserError(f"`{name}` has no reply after the prompt")
    return [*(system or own_system), *asked, *said[len(asked) :]]


def _without_system(turns: list[dict]) -> tuple[list[dict], list[dict]]:
    count = int(turns[0]["role"] == "system")
    return turns[:count], turns[count:]


def _stripped(turns: list[dict]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"].strip()) for turn in turns]
