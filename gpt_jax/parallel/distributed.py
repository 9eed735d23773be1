"""Many hosts: the same program runs once on each, and all of it is `jax.jit` over one mesh.

A collective waits for every process, so whatever decides between two ways through the program must
come out alike on all: `agree` and `on_main` are for what only one of them can know. Files are
written by process 0 and read by all: the run folder lies on a file system that all hosts share.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpt_jax.errors import UserError

# What `srun` tells a process about itself.
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")

PATIENCE_MS = 30 * 60 * 1000  # for a process that is still reading its data
_calls = itertools.count()  # a barrier's name may be used once


def start(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Joins this process to the others; call it before the first JAX computation.

    Args:
      coordinator: `host:port` of process 0; `auto` takes all three from the environment (Cloud
        TPU, Slurm, GKE; JAX knows how); None does so where the environment names many processes,
        and else leaves this process alone.
      processes, process_id: how many there are, and which one this is; only with `host:port`.

    Raises:
      UserError: if the three do not fit together, or the others cannot be reached.
    """
    if coordinator is None and (processes, process_id) == (None, None):
        if not among_many(os.environ):
            return
        coordinator = "auto"
    given = {} if coordinator == "auto" else {"coordinator_address": coordinator}
    given |= {"num_processes": processes, "process_id": process_id} if given else {}
    if None in given.values() or (not given and (processes, process_id) != (None, None)):
        raise UserError(
            "--coordinator HOST:PORT, --processes and --process-id go together (on Cloud TPU, "
            "Slurm and GKE `--coordinator auto` stands alone); give all three"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # CPUs have no queue as accelerators have: two programs under way at once would meet the
    # collectives of the other processes in any order.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run did not meet ({str(error).splitlines()[0][:200]}); see "
            "that all of them are started, and that --coordinator can be reached from each"
        ) from error


def among_many(environment: Mapping[str, str]) -> bool:
    """Whether Slurm or GKE (on TPU) says that this process is one of several.

    A Cloud TPU VM says nothing that can be asked for in passing; there it takes `auto`.
    """
    slurm = all(name in environment for name in SLURM) and int(environment["SLURM_NTASKS"]) > 1
    return slurm or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def leave(code: int) -> None:
    """Ends this process. Of many it does not wait for the others, as JAX does at an orderly exit:
    they may be in a collective with this one, and JAX ends them when they miss it."""
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized():
        os._exit(code)
    sys.exit(code)


def is_main() -> bool:
    """Whether this process writes the logs."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints on process 0."""
    if is_main():
        print(text, flush=True)


class SaidOnce:
    """`with contextlib.redirect_stdout(SaidOnce(sys.stdout)):` prints no line twice: what is done
    once for every seed has the same to say each time."""

    def __init__(self, out: TextIO):
        self.out, self.seen, self.skipped = out, set(), False

    def write(self, text: str) -> int:
        """Writes what has not been written; `print` gives a line and its end one by one."""
        if text.strip():
            self.skipped = text in self.seen
        if not self.skipped:
            self.seen.add(text)
            self.out.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.out, name)


def agree(value: int) -> int:
    """Process 0's value, on every process."""
    return int(_broadcast(value))


def _broadcast(value: Any) -> Any:
    """Process 0's arrays, on every process."""
    if jax.process_count() == 1:
        return value
    import orbax.checkpoint as ocp  # here: it takes long, and most runs have one process

    # A collective is not patient (on CPUs it waits 30 s for the others), this barrier is.
    meet = ocp.multihost.get_barrier_sync_fn()
    meet(key=f"gpt_jax/agree/{next(_calls)}", timeout_ms=PATIENCE_MS)
    return multihost_utils.broadcast_one_to_all(value)


def on_main(action: Callable[[], Any]) -> None:
    """Runs `action` on process 0 while the others wait for it.

    Raises:
      UserError: on every process, if `action` raised one.
    """
    failure = None
    if is_main():
        try:
            action()
        except UserError as error:
            failure = error
    if agree(failure is not None):
        raise failure or UserError("process 0 could not go on; its message says why")


def from_main(compute: Callable[[], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """What process 0 computes, on every process: what may differ from one to the next (a time limit
    that is met here and not there) is then decided once.

    Args:
      compute: gives a float32 array of the shape.
      shape: of it.

    Raises:
      UserError: on every process, if `compute` raised one.
    """
    found = [np.zeros(shape, np.float32)]
    on_main(lambda: found.append(compute()))
    return np.asarray(_broadcast(found[-1]))


def fetch(tree: Any) -> Any:
    """The whole arrays as NumPy, on every process; all must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
