"""Talk to a model in the terminal: `python -m gpt_jax.chat runs/rlhf/NAME`, or `hf:ORG/NAME`."""

import dataclasses
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from gpt_jax import terminal
from gpt_jax.errors import UserError
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.text.chat import Message
from gpt_jax.train.origin import is_foreign
from gpt_jax.train.served import open_run, recorded_stage, served_folder

Which = Literal["ppo", "sft", "base"]
HELP = "Ask something. /system TEXT sets the rules, /reset forgets all but these, /quit leaves."


class Assistant(NamedTuple):
    """A model to talk to, what to call it, and how it samples."""

    model: TextModel
    name: str
    sampling: Sampling


def load(
    run_folder: str | Path,
    stage: Which = "ppo",
    temperature: float = 0.7,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> Assistant:
    """The model of one stage, or one from elsewhere.

    Args:
        run_folder: of a whole run (with ppo/, sft/, pretrain/ inside) or of one stage; or a Hugging
            Face folder, hf:ORG/NAME or gguf:FILE.
        stage: whose model of a whole run.
        temperature: divides the logits; 0 takes the most likely token.
        max_new_tokens: None is half the context, 256 at most.
        seed: of the sampling.

    Raises:
        UserError: nothing to load there, or an option the model cannot meet.
    """
    model = open_run(run_folder, stage)
    context = model.config.context_length
    limit = min(256, context // 2) if max_new_tokens is None else max_new_tokens
    if not 0 < limit < context:
        raise UserError(
            f"--max-new-tokens {limit} does not fit the model's context of {context} tokens; give "
            f"1 to {context - 1}."
        )
    sampling = Sampling(temperature=temperature, max_new_tokens=limit, seed=seed)
    if is_foreign(run_folder):
        return Assistant(model, Path(str(run_folder).rpartition(":")[2]).stem, sampling)
    return Assistant(model, recorded_stage(served_folder(Path(run_folder), stage)), sampling)


def answer(assistant: Assistant, messages: Sequence[Message], seed: int) -> str:
    """The assistant's answer to a conversation that ends with the user.

    Args:
        seed: of this answer.

    Raises:
        UserError: the newest message does not fit the context.
    """
    sampling = dataclasses.replace(assistant.sampling, seed=seed)
    (completion,) = assistant.model.complete([messages], sampling)
    return completion.text.strip()


def converse(assistant: Assistant, lines: Iterable[str]) -> Iterable[str]:
    """Lines typed -> lines to print. Ends with the lines, or at /quit."""
    messages: list[Message] = []
    for turn, line in enumerate(lines):
        command, _, rest = line.strip().partition(" ")
        system = [m for m in messages if m["role"] == "system"]
        if not command:
            continue
        elif command == "/quit":
            return
        elif command == "/reset":
            messages = system
            yield "(forgotten)"
        elif command == "/system":
            messages = [{"role": "system", "content": rest.strip()}] if rest.strip() else []
            yield "(a new conversation, under these rules)" if messages else "(no rules)"
        elif command.startswith("/"):
            yield HELP
        else:
            asked = [*messages, Message(role="user", content=line.strip())]
            try:
                text = answer(assistant, asked, (assistant.sampling.seed + turn) % 2**32)
            except UserError as error:
                yield str(error)
                continue
            messages = [*asked, Message(role="assistant", content=text)]
            yield text or "(no answer)"


def typed_lines() -> Iterable[str]:
    """What is typed, or piped in, line by line."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  (gives input() editing and history)
    while True:
        try:
            yield input("you> " if sys.stdin.isatty() else "")
        except EOFError:
            return


def main(
    run_folder: Annotated[str, tyro.conf.Positional],
    stage: Which = "ppo",
    temperature: float = 0.7,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> None:
    """Talks to a trained model.

    Type a line and get an answer. /system TEXT sets the rules, /reset forgets the conversation,
    /quit, Ctrl-D or Ctrl-C leave.

    Args:
        run_folder: a run's folder, say runs/rlhf/tiny, or that of one stage; or a model from
            elsewhere: a Hugging Face folder, hf:ORG/NAME or gguf:FILE.
        stage: whose model of a whole run to talk to: after PPO, after supervised finetuning, or
            the base model.
        temperature: 0 is always the likeliest answer, 1 as varied as the model has learned.
        max_new_tokens: the longest answer; by default half the context, 256 at most.
        seed: of the sampling; the same lines get the same answers.
    """
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            # A byte that is no letter, or a letter that the terminal lacks, is a wrong letter.
            stream.reconfigure(errors="replace")
    try:
        assistant = load(run_folder, stage, temperature, max_new_tokens, seed)
        print(HELP)
        for text in converse(assistant, typed_lines()):
            print(f"{assistant.name}> {text}", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        pass
    print("\nGoodbye." if sys.stdin.isatty() else "Goodbye.")


if __name__ == "__main__":
    with terminal.ending_plainly():
        tyro.cli(main, prog="python -m gpt_jax.chat")
