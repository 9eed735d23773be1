"""Serve models: `python -m gpt_jax.serve runs/rlhf/tiny`, then open http://127.0.0.1:8000/.

    python -m gpt_jax.serve gguf:SmolLM2-135M-Instruct.Q4_1.gguf --places 1024 --slots 16
    python -m gpt_jax.serve runs/a/sft runs/a/ppo --votes comparisons.jsonl
    python -m gpt_jax.serve --embeddings hf:sentence-transformers/all-MiniLM-L6-v2

Each model is a run folder, a Hugging Face folder, hf:ORG/NAME or gguf:FILE. The interface is
OpenAI's: /v1/chat/completions, /v1/completions, /v1/models, /v1/embeddings; the page at / talks to
it. Two models can be asked side by side there; votes become rows that `experiments.reward
--data.comparisons FILE` learns from.
"""

import dataclasses
import functools
import json
import sys
import threading
from pathlib import Path
from typing import Annotated

import tyro

from gpt_jax import terminal
from gpt_jax.errors import UserError
from gpt_jax.ranges import Positive, Range, check_ranges


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    models: tyro.conf.Positional[tuple[str, ...]] = ()
    """What is served."""
    embeddings: tuple[str, ...] = ()
    """Sentence encoders for /v1/embeddings: folders or hf:ORG/NAME; NAME=FOLDER names one."""
    host: str = "127.0.0.1"
    """Where to listen. Others can reach anything but the loopback address: set an API key then."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """On which port."""
    api_key: str | None = None
    """What every client must show; also read from the variable GPT_JAX_API_KEY."""
    slots: Positive = 16
    """Completions of a model that run at once."""
    places: Positive | None = None
    """The most tokens of a prompt with its completion; None: the context, 1,024 at most."""
    pages: Positive | None = None
    """Pages of 64 tokens that the slots share; None: each has its places to itself. For
    accelerators, with --places as long as the longest conversation."""
    queue: Positive = 256
    """Completions of a model that may wait or run; more are told to come again."""
    votes: str | None = None
    """The file that votes are added to."""

    def __post_init__(self):
        check_ranges(self)
        if not self.models and not self.embeddings:
            raise UserError("name a model that is to be served, or --embeddings FOLDER")


def main(options: Options) -> None:
    """Serves until it is interrupted."""
    try:
        import uvicorn

        from gpt_jax.serve.app import Served, make_app
    except ImportError as error:
        raise UserError(f'serving needs more ({error}): pip install "gpt_jax[serve]"') from error
    import os

    api_key = options.api_key or os.environ.get("GPT_JAX_API_KEY")
    if api_key is None and options.host not in ("127.0.0.1", "::1", "localhost"):
        raise UserError(
            f"--host {options.host} lets others ask, so it needs --api-key (or GPT_JAX_API_KEY)"
        )
    served: dict[str, Served] = {}
    encoders = {}
    for where in options.embeddings:
        name, where = _given_name(where, encoders)
        print(f"loading {where} as {name} ...", flush=True)
        encoders[name] = load_encoder(where)
    for where in options.models:
        name = _name(where, {**encoders, **served})
        print(f"loading {where} as {name} ...", flush=True)
        served[name] = load(where, options)
    vote = functools.partial(keep, Path(options.votes), threading.Lock()) if options.votes else None
    names = ", ".join([*served, *encoders])
    print(f"serving {names} on http://{options.host}:{options.port}/", flush=True)
    app = make_app(served, api_key, vote, encoders)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    for one in served.values():
        one.worker.close()


def load(where: str, options: Options):
    """One model with its worker, compiled and ready."""
    from gpt_jax.generate.constraints import Constrain
    from gpt_jax.generate.embeddings import embedder
    from gpt_jax.generate.engine import Engine
    from gpt_jax.generate.sampling import Sampling
    from gpt_jax.serve.app import Served
    from gpt_jax.serve.worker import Worker
    from gpt_jax.train.served import open_run

    model = open_run(where)
    engine = Engine(model, options.slots, options.places, pages=options.pages, top=20)
    engine.complete(["warm up"], Sampling(max_new_tokens=2))
    try:
        constrain = Constrain(model.tokenizer, model.config.vocab_size)
    except UserError as error:
        print(f"no constrained output: {error}", file=sys.stderr)
        constrain = None
    return Served(Worker(engine, options.queue), constrain, embedder(model))


def load_encoder(where: str):
    """A sentence encoder, compiled for a short text alone and for several."""
    from gpt_jax.generate.embeddings import open_encoder

    found = open_encoder(where)
    found.embed(["warm up"])
    found.embed(["warm up", "warm up"])
    return found


def _given_name(where: str, taken: dict) -> tuple[str, str]:
    """(name, folder) of NAME=FOLDER, or of a folder alone."""
    name, equals, folder = where.partition("=")
    if not (equals and name and folder) or Path(where).exists():
        return _name(where, taken), where
    if name in taken:
        raise UserError(f"two models are called {name}; give each a name of its own")
    return name, folder


def _name(where: str, taken: dict) -> str:
    """What clients call a model: its folder's name, or a part of its path where that is taken."""
    path = Path(where.split(":", 1)[-1] if where.startswith(("gguf:", "hf:")) else where)
    short = path.stem if path.suffix == ".gguf" else path.name
    longer = f"{path.parent.name}/{short}"
    for name in (short, longer, where):
        if name not in taken:
            return name
    raise UserError(f"{where} is named twice; name each model once")


def keep(path: Path, lock: threading.Lock, row: dict) -> None:
    """Adds a row to a file of comparisons."""
    with lock, path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    from gpt_jax.train import command

    command.use_compilation_cache()
    command.compilation_cache_for_all()  # a request waits for every shape that is new
    with terminal.ending_plainly():
        try:
            main(tyro.cli(Options, description=__doc__))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
