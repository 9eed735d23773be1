"""The command line of an experiment: `--preset` first, every other option on top of it."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
import rich
import tyro

from gpt_jax import terminal
from gpt_jax.data.config import DataConfig
from gpt_jax.errors import UserError
from gpt_jax.files import cache_folder
from gpt_jax.parallel import distributed
from gpt_jax.parallel.mesh import MeshConfig, platform
from gpt_jax.ranges import NonNegative, Positive, Range, check_ranges
from gpt_jax.train.host import keep_freed_memory

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """What every experiment takes first."""

    preset: str = "tiny"
    """Where the other defaults come from: smoke (under a minute; on a CPU its programs are
    compiled quickly rather than well), tiny (a laptop CPU), colab (one TPU chip or GPU), or what
    the experiment has besides."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Of everything random: data order, initialisation, sampling."""
    seeds: Positive = 1
    """Run so many seeds, from `seed` on, and show means with 95% intervals over them. What starts
    from a run of as many seeds starts each seed from its own."""
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Run every combination of some settings: --sweep ppo.kl_coef=0.01,0.1 --sweep ppo.epochs=1,4.
    Each point has a folder of its own in the run folder."""
    run_dir: str
    """Folder of the run; the same command on the same folder resumes."""
    mesh: MeshConfig = MeshConfig()
    """How the devices are arranged."""
    data: DataConfig = DataConfig()
    """What is trained on."""
    tensorboard: bool = False
    """Also write TensorBoard event files (needs the extra `tensorboard`)."""
    wandb: bool = False
    """Also log to Weights & Biases (needs the extra `wandb`)."""
    replay: Positive | None = None
    """Instead of training, repeat this one step and say which gradients are not finite."""
    coordinator: str | None = None
    """Many hosts: HOST:PORT of process 0, or `auto` on Cloud TPU, Slurm and GKE."""
    processes: Positive | None = None
    """Many hosts: how many processes there are."""
    process_id: NonNegative | None = None
    """Many hosts: which of them this is, from 0."""

    def __post_init__(self):
        check_ranges(self)


def shared(config: Common, **changes: Any) -> dict[str, Any]:
    """The `Common` fields of a configuration, to build another experiment's from."""
    names = [field.name for field in dataclasses.fields(Common)]
    return {name: getattr(config, name) for name in names} | changes


def presets_as(
    kind: type[Config], presets: dict[str, Callable[[], Common]]
) -> dict[str, Callable[[], Config]]:
    """The presets of one experiment as those of another, whose configuration has more fields.

    Args:
      kind: a subclass of the presets' configuration; its own fields and `run_dir` keep their
        defaults.
      presets: of the other experiment.
    """

    def convert(preset: Callable[[], Common]) -> Config:
        config = preset()
        names = [field.name for field in dataclasses.fields(config) if field.name != "run_dir"]
        return kind(**{name: getattr(config, name) for name in names})

    return {name: functools.partial(convert, preset) for name, preset in presets.items()}


def run(
    main: Callable[[Config], Any], presets: dict[str, Callable[[], Config]], description: str
) -> None:
    """Parses the command line over the chosen preset and runs `main`.

    Exit codes: 0 done, or stopped by SIGTERM; 2 something to mend, said in one sentence; 130
    interrupted; 141 nobody reads the output any more.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax and TFDS chat a lot
    use_compilation_cache()
    keep_freed_memory()
    with terminal.ending_plainly():
        try:
            config = parse(sys.argv[1:], presets, description)
            # Of many hosts each says it, before it waits for the others.
            name = Path(sys.argv[0]).stem
            print(f"{name}: preset {config.preset}, run folder {config.run_dir}", flush=True)
            distributed.start(config.coordinator, config.processes, config.process_id)
            set_up_compiler(config)
            if config.sweep:
                from gpt_jax.train.sweep import run_sweep  # and the report's parts with it

                compilation_cache_for_all()
                run_sweep(main, config)
            else:
                main(config)
        except UserError as error:
            rich.get_console().print()
            print(f"error: {error}", file=sys.stderr)
            distributed.leave(2)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command resumes", file=sys.stderr)
            distributed.leave(130)
        except BrokenPipeError:
            raise  # `terminal` knows whether it is that of the output
        except Exception:
            traceback.print_exc()
            distributed.leave(1)


def parse(
    arguments: list[str], presets: dict[str, Callable[[], Config]], description: str
) -> Config:
    """The preset named in the arguments, changed by the rest of them."""
    name = "tiny"
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before == "--preset":
            name = argument
        elif argument.startswith("--preset="):
            name = argument.removeprefix("--preset=")
    if name not in presets:
        raise UserError(f"there is no preset {name!r}; choose one of {', '.join(presets)}")
    default = presets[name]()
    return tyro.cli(type(default), default=default, args=arguments, description=description)


def invocation(name: str, package: str = "experiments") -> str:
    """The command that started this program; from a notebook, just the experiment's name."""
    arguments = sys.argv[1:] if Path(sys.argv[0]).stem == name else []
    return shlex.join(["python", "-m", f"{package}.{name}", *arguments])


def set_up_compiler(config: Common) -> None:
    """The smoke preset would wait longer for XLA's optimizations than it runs."""
    if config.preset == "smoke" and platform() == "cpu":
        jax.config.update("jax_disable_most_optimizations", True)


def compilation_cache_for_all() -> None:
    """Keeps programs of less than a second, too, for runs that compile the same ones many times."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, so a resumed run starts at once."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
