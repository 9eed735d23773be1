"""Talk to a trained model in the terminal: `python -m gpt_jax.chat runs/rlhf/NAME`."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import tyro

from gpt_jax import terminal
from gpt_jax.data.batches import pad_prompts
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import generate
from gpt_jax.models.config import ModelConfig
from gpt_jax.text.chat import Message, render_document_prompt, render_prompt
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.checkpoint import load_model

Stage = Literal["ppo", "sft", "base"]
FOLDERS = {"ppo": "ppo", "sft": "sft", "base": "pretrain"}
BUCKET = 32  # prompts are padded to a multiple of this, so that few lengths are compiled
HELP = "Ask something. /system TEXT sets the rules, /reset forgets all but these, /quit leaves."


_generate = jax.jit(
    generate, static_argnames=("config", "max_new_tokens", "stop_id", "pad_id", "temperature")
)


class Assistant(NamedTuple):
    """A model to talk to, and how it samples.

    Attributes:
        config, params, tokenizer: as `load_model` gives them.
        stage: of "base" the conversation is put as a plain document: it never saw chat tokens.
        temperature: divides the logits; 0 takes the most likely token.
        max_new_tokens: the longest answer, in tokens.
    """

    config: ModelConfig
    params: dict
    tokenizer: Tokenizer
    stage: Stage
    temperature: float
    max_new_tokens: int

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        render = render_document_prompt if self.stage == "base" else render_prompt
        return render(messages, self.tokenizer)


def load(
    run_folder: str | Path,
    stage: Stage = "ppo",
    temperature: float = 0.7,
    max_new_tokens: int | None = None,
) -> Assistant:
    """The model of one stage.

    Args:
        run_folder: of a whole run (with ppo/, sft/, pretrain/ inside) or of one stage.
        max_new_tokens: None is half the context, 256 at most.

    Raises:
        UserError: nothing to load there, or an option the model cannot meet.
    """
    config, params, tokenizer = load_model(stage_folder(Path(run_folder), stage))
    limit = min(256, config.context_length // 2) if max_new_tokens is None else max_new_tokens
    if not 0 < limit < config.context_length:
        raise UserError(
            f"--max-new-tokens {limit} does not fit the model's context of "
            f"{config.context_length} tokens; give 1 to {config.context_length - 1}."
        )
    if temperature < 0:
        raise UserError(f"--temperature {temperature} is below 0; give 0 or more.")
    return Assistant(config, params, tokenizer, stage, temperature, limit)


def stage_folder(run_folder: Path, stage: Stage) -> Path:
    """Where a stage's model lies: inside a whole run's folder, or that folder itself."""
    if not run_folder.is_dir():
        raise UserError(f"{run_folder}: there is no such run folder; give one under runs/.")
    if (run_folder / "checkpoints").is_dir():
        return run_folder
    folder = run_folder / FOLDERS[stage]
    if (folder / "checkpoints").is_dir():
        return folder
    there = [name for name, sub in FOLDERS.items() if (run_folder / sub / "checkpoints").is_dir()]
    if there:
        raise UserError(f"{run_folder}: stage {stage} is not there yet; add --stage {there[0]}.")
    raise UserError(f"{run_folder}: there is no trained model in it; give a run's folder.")


def fit(
    messages: Sequence[Message], prompt: Callable[[Sequence[Message]], list[int]], limit: int
) -> list[Message]:
    """Drops the oldest turns until the prompt has at most `limit` tokens.

    A turn is a user's message and all up to the next one. A system message in front stays.

    Args:
        messages: ends with the user's newest message, which is never dropped.
        prompt: messages -> token ids.

    Raises:
        UserError: the newest message alone is too long.
    """
    head = [m for m in messages[:1] if m["role"] == "system"]
    turns = list(messages[len(head) :])
    starts = [i for i, message in enumerate(turns) if message["role"] == "user"]
    for start in starts:
        kept = head + turns[start:]
        if len(prompt(kept)) <= limit:
            return kept
    raise UserError(
        f"That is {len(prompt(kept))} tokens and the model reads {limit} at a time; say it shorter."
    )


def answer(assistant: Assistant, messages: Sequence[Message], key: jax.Array) -> str:
    """The assistant's answer to a conversation that ends with the user.

    Args:
        key: one random key for this answer.

    Raises:
        UserError: the newest message does not fit the context.
    """
    limit = assistant.config.context_length - assistant.max_new_tokens
    ids = assistant.prompt(fit(messages, assistant.prompt, limit))
    width = min(-(-len(ids) // BUCKET) * BUCKET, limit)
    tokenizer = assistant.tokenizer
    rollout = _generate(
        assistant.config,
        assistant.params,
        pad_prompts([ids], width, tokenizer.pad_id),
        key,
        max_new_tokens=assistant.max_new_tokens,
        stop_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        temperature=assistant.temperature,
    )
    completion = jax.device_get(rollout.completion_BC)
    sampled = completion.ids[0][completion.segment_ids[0] > 0]
    text = tokenizer.decode(sampled.tolist())
    if assistant.stage == "base":  # it goes on to write the user's next line as well
        text = text.split("\nUser:")[0]
    return text.strip()


def converse(assistant: Assistant, lines: Iterable[str], seed: int) -> Iterable[str]:
    """Lines typed -> lines to print. Ends with the lines, or at /quit."""
    messages: list[Message] = []
    key = jax.random.key(seed)
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
                text = answer(assistant, asked, jax.random.fold_in(key, turn))
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
    run_folder: Annotated[Path, tyro.conf.Positional],
    stage: Stage = "ppo",
    temperature: float = 0.7,
    max_new_tokens: int | None = None,
    seed: int = 0,
) -> None:
    """Talks to a trained model.

    Type a line and get an answer. /system TEXT sets the rules, /reset forgets the conversation,
    /quit, Ctrl-D or Ctrl-C leave.

    Args:
        run_folder: a run's folder, say runs/rlhf/tiny, or that of one stage.
        stage: whose model to talk to: after PPO, after supervised finetuning, or the base model.
        temperature: 0 is always the likeliest answer, 1 as varied as the model has learned.
        max_new_tokens: the longest answer; by default half the context, 256 at most.
        seed: of the sampling; the same lines get the same answers.
    """
    try:
        assistant = load(run_folder, stage, temperature, max_new_tokens)
        print(HELP)
        for text in converse(assistant, typed_lines(), seed):
            print(f"{stage}> {text}", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        pass
    print("\nGoodbye." if sys.stdin.isatty() else "Goodbye.")


if __name__ == "__main__":
    with terminal.ending_plainly():
        tyro.cli(main, prog="python -m gpt_jax.chat")
