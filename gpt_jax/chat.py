"""Talk to a model in the terminal: `python -m gpt_jax.chat runs/rlhf/NAME`, or `hf:ORG/NAME`.

The engine of the server answers, in one slot: what was said before is in its cache and is not read
again, and text is shown as it is drawn. Ctrl-C ends an answer, and the conversation goes on.
"""

import contextlib
import dataclasses
import io
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from gpt_jax import terminal
from gpt_jax.errors import UserError
from gpt_jax.generate.engine import Engine
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.streaming import stream, takes
from gpt_jax.generate.text import Completion, TextModel
from gpt_jax.text.chat import Message
from gpt_jax.train.origin import is_foreign
from gpt_jax.train.served import open_run, recorded_stage, served_folder

Which = Literal["ppo", "sft", "base"]
HELP = (
    "Ask something; Ctrl-C stops an answer. /again asks anew, /undo takes the last question back, "
    "/system TEXT sets the rules, /reset forgets all but these, /quit leaves."
)
PLACES = 1024  # tokens of a conversation that are kept: a longer cache makes every token slower
STEPS = 4  # tokens between two looks at what is new


class Assistant(NamedTuple):
    """A model to talk to, what to call it, how it samples, and the engine that draws.

    Without an engine, as for a model that has no key/value cache, answers come whole.
    """

    model: TextModel
    name: str
    sampling: Sampling
    engine: Engine | None = None


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
        name = Path(str(run_folder).rpartition(":")[2]).stem
    else:
        name = recorded_stage(served_folder(Path(run_folder), stage))
    places = min(context, max(PLACES, 2 * limit))
    fits = takes(model.config)
    engine = Engine(model, 1, places, rows=1, steps=STEPS) if fits else None
    return Assistant(model, name, sampling, engine)


def answer(
    assistant: Assistant, messages: Sequence[Message], seed: int
) -> Generator[str, None, Completion]:
    """The assistant's answer to a conversation that ends with the user, in parts.

    Args:
      assistant: who answers.
      messages: the conversation.
      seed: of this answer.

    Yields:
      The text as it comes, now and then "".

    Returns:
      The completion.

    Raises:
      UserError: the newest message does not fit the context.
    """
    sampling, engine = dataclasses.replace(assistant.sampling, seed=seed), assistant.engine
    if engine is None:
        (completion,) = assistant.model.complete([messages], sampling)
        yield completion.text
        return completion
    asked = assistant.model.asked(messages, 0, sampling, engine.places)
    return (yield from stream(engine, asked, sampling))


def reply(
    assistant: Assistant, messages: Sequence[Message], seed: int
) -> Generator[str, None, str]:
    """Yields an answer as it is to be shown, with its notes; returns what was said.

    Args:
      assistant, messages, seed: as for `answer`.
    """
    parts, said, shown = answer(assistant, messages, seed), "", ""
    with noting_interrupts() as interrupted:
        while not interrupted.is_set():
            try:
                said += next(parts)
            except StopIteration as end:
                completion: Completion = end.value
                break
            text = said.lstrip()
            yield text[len(shown) :]
            shown = text
        else:
            parts.close()
            yield " (stopped)" if shown else "(stopped)"
            return said
    if not shown.strip():
        yield "(no answer)"
    if completion.finish_reason == "length":
        yield f" (cut after {len(completion.tokens)} tokens; --max-new-tokens N allows more)"
    if completion.left_out:
        yield f"\n(of what was said before, {completion.left_out} turns no longer fit)"
    return said


@contextlib.contextmanager
def noting_interrupts() -> Iterator[threading.Event]:
    """Within, Ctrl-C is noted; a second one ends the program.

    A step of the engine takes its memory, so an exception that breaks into one would leave none.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(*_) -> None:
        noted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def converse(assistant: Assistant, lines: Iterable[str]) -> Iterator[str]:
    """Lines typed -> what is to be shown, part by part. Ends with the lines, or at /quit."""
    rules: list[Message] = []
    turns: list[Message] = []  # the user's and the assistant's, one after the other
    for number, line in enumerate(lines):
        command, _, rest = line.strip().partition(" ")
        question = line.strip()
        if command == "/again" and turns:
            question = turns[-2]["content"]
            turns = turns[:-2]
        elif not command:
            continue
        elif command == "/quit":
            return
        elif command.startswith("/"):
            if command == "/reset":
                turns, note = [], "(forgotten)"
            elif command == "/undo" and turns:
                turns, note = turns[:-2], f"(taken back: {turns[-2]['content']})"
            elif command in ("/undo", "/again"):
                note = "(nothing was asked yet)"
            elif command == "/system":
                rules = [Message(role="system", content=rest.strip())] if rest.strip() else []
                note = "(a new conversation, under these rules)" if rules else "(no rules)"
                turns = []
            else:
                note = HELP
            yield note + "\n"
            continue
        asked = [*turns, Message(role="user", content=question)]
        yield f"{assistant.name}> "
        try:
            said = yield from reply(
                assistant, [*rules, *asked], (assistant.sampling.seed + number) % 2**32
            )
        except UserError as error:
            yield f"{error}\n"
            continue
        yield "\n"
        if said.strip():
            turns = [*asked, Message(role="assistant", content=said)]


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

    Type a line and get an answer, which Ctrl-C stops. /again asks anew, /undo takes the last
    question back, /system TEXT sets the rules, /reset forgets the conversation; /quit, Ctrl-D, or
    Ctrl-C at an empty line leave.

    Args:
        run_folder: a run's folder, say runs/rlhf/tiny, or that of one stage; or a model from
            elsewhere: a Hugging Face folder, hf:ORG/NAME or gguf:FILE.
        stage: whose model of a whole run to talk to: after PPO, after supervised finetuning, or
            the base model.
        temperature: 0 is always the likeliest answer, 1 as varied as the model has learned.
        max_new_tokens: the longest answer; by default half the context, 256 at most.
        seed: of the sampling; the same lines get the same answers.
    """
    for pipe in (sys.stdin, sys.stdout):
        if isinstance(pipe, io.TextIOWrapper):
            # A byte that is no letter, or a letter that the terminal lacks, is a wrong letter.
            pipe.reconfigure(errors="replace")
    try:
        assistant = load(run_folder, stage, temperature, max_new_tokens, seed)
        print(HELP)
        for part in converse(assistant, typed_lines()):
            print(part, end="", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        pass
    print("\nGoodbye." if sys.stdin.isatty() else "Goodbye.")


if __name__ == "__main__":
    with terminal.ending_plainly():
        tyro.cli(main, prog="python -m gpt_jax.chat")
