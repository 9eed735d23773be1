"""Runs Python that nobody has read, in a process that can compute and little else.

    run("print(1 + 1)").output
    run_tests(solution="def f(x): return x + 1", tests="assert f(1) == 2").status

`PROTECTIONS` are what a run is kept from; `protections()` tries them out on this machine and says
by what each is had. Where one is missing nothing is run, unless the caller allows for it by name.
No privilege is needed, and containers are as good as bare machines: the limits, Landlock and
seccomp of `kernel.py` are what any process may do to itself.

What is not guaranteed: a bug of the kernel or of the processor; how much of a core is taken until
the time is up; that nobody sees which files exist (their names, sizes and dates can be asked for
where a folder may be entered, their bytes cannot be read). Only the standard library can be
imported, there are no threads, and files (no folders) can be written in the run's own folder, which
is its working directory and is removed afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.ranges import Positive, PositiveFloat, check_ranges
from gpt_jax.tasks.sandbox.child import REFUSED

CHILD = Path(__file__).with_name("child.py")
PROTECTIONS = {
    "memory": "taking more memory than the limit",
    "cpu": "taking more time of a core than the limit",
    "writes": "writing outside of its own folder",
    "reads": "reading files other than Python's own",
    "network": "opening sockets",
    "processes": "starting processes or threads",
    "signals": "sending signals to other processes, or changing them",
}
TICK = 0.05  # seconds between looks at the folder
MOST_FILES = 200


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a run may take."""

    seconds: PositiveFloat = 5.0
    """By the clock."""
    cpu_seconds: Positive = 5
    """Of a core."""
    memory: Positive = 512 * 2**20
    """Bytes of addresses."""
    file_bytes: Positive = 2**20
    """Of one file; of all together ten times as many."""
    output: Positive = 64 * 2**10
    """Bytes that are printed; with more the run ends."""
    open_files: Positive = 64
    """At a time."""

    def __post_init__(self):
        check_ranges(self)


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
      status: "passed" if it ended by itself with exit code 0; "failed", with another, or by a
        signal; "time", "output" or "files", if it was killed for taking too much.
      code: the exit code; minus the number of a signal.
      output: what it printed, on either stream.
    """

    status: Literal["passed", "failed", "time", "output", "files"]
    code: int
    output: str


@functools.cache
def protections() -> dict[str, str | None]:
    """{protection: by what this machine gives it, or None}, as a bare run finds it."""
    outcome = _supervise([{"role": "report"}], Limits())
    found = json.loads(outcome.output) if outcome.status == "passed" else {}
    return {name: found.get(name) for name in PROTECTIONS}


def check_protections(allow: Collection[str] = ()) -> None:
    """Sees that a run would be kept from everything but what is allowed.

    Raises:
      UserError: naming what is missing.
    """
    missing = [name for name, by in protections().items() if by is None and name not in allow]
    if missing:
        what = "; ".join(PROTECTIONS[name] for name in missing)
        raise UserError(
            f"code cannot be kept from {what} on this machine, which lacks Landlock, seccomp or "
            "resource limits; use another one, or add --unconfined if you trust what will be run"
        )


def run(code: str, limits: Limits = Limits(), allow: Collection[str] = ()) -> Outcome:
    """Runs a script; its standard input is empty.

    Args:
      code: of the script.
      limits: what it may take.
      allow: the protections that may be missing.

    Raises:
      UserError: if others are missing.
    """
    check_protections(allow)
    return _supervise([{"role": "script", "code": code}], limits, allow)


def run_tests(
    solution: str,
    tests: str,
    *,
    setup: str = "",
    names: Collection[str] = (),
    limits: Limits = Limits(),
    allow: Collection[str] = (),
) -> Outcome:
    """Whether a solution passes tests, in two processes that exchange plain data.

    Args:
      solution: Python that defines functions.
      tests: Python that calls them and raises if they are wrong; a name that it does not define is
        the solution's.
      setup: Python that the tests alone run first.
      names: of functions that are the solution's, though `setup` defines them, too.
      limits: of each of the two.
      allow: the protections that may be missing.

    Returns:
      "passed" if the tests have run to their end.

    Raises:
      UserError: if other protections are missing.
    """
    check_protections(allow)
    calls, answers = os.pipe(), os.pipe()
    test = {"role": "test", "code": tests, "setup": setup, "names": list(names)}
    test |= {"reads": answers[0], "writes": calls[1]}
    solve = {"role": "solve", "code": solution, "reads": calls[0], "writes": answers[1]}
    return _supervise([test, solve], limits, allow)


def _supervise(roles: list[dict], limits: Limits, allow: Collection[str] = ()) -> Outcome:
    """Starts processes and waits until the first of them has ended; kills all of them then."""
    ends = {end for role in roles for end in (role.get("reads"), role.get("writes")) if end}
    with tempfile.TemporaryDirectory(prefix="sandbox", ignore_cleanup_errors=True) as folder:
        started: list[subprocess.Popen] = []
        try:
            started += [_start(role, folder, limits, allow) for role in roles]
            for end in ends:
                os.close(end)
            ends = set()
            status, output = _wait(started, folder, limits)
        finally:
            for process in started:
                _kill(process)
            for end in ends:
                os.close(end)
    code = started[0].returncode
    if code == REFUSED:
        raise UserError(f"this code was not run: {output}")
    return Outcome(status or ("passed" if code == 0 else "failed"), code, output)


def _start(role: dict, folder: str, limits: Limits, allow: Collection[str]) -> subprocess.Popen:
    pipes = [role[end] for end in ("reads", "writes") if end in role]
    required = [name for name in PROTECTIONS if name not in allow]
    settings: dict[str, Any] = role | {"folder": folder, "limits": dataclasses.asdict(limits)}
    settings |= {"parent": os.getpid(), "required": required}
    process = subprocess.Popen(
        # Isolated: no variables, no user's packages, nothing from the working directory.
        [sys.executable, "-I", "-S", "-B", str(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={"LC_ALL": "C.UTF-8", "TMPDIR": folder, "HOME": folder},
        pass_fds=pipes,
        start_new_session=True,
    )
    try:
        process.stdin.write(json.dumps(settings).encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it has ended already, and its exit code says how
    return process


def _wait(started: list[subprocess.Popen], folder: str, limits: Limits) -> tuple[str | None, str]:
    """(why the first process was to be killed, if so; what was printed)."""
    said, end, size = {process: b"" for process in started}, time.monotonic() + limits.seconds, 0
    with selectors.DefaultSelector() as ready:
        for process in started:
            ready.register(process.stdout, selectors.EVENT_READ, process)
        status = None
        while status is None and ready.get_map():
            for key, _ in ready.select(TICK):
                chunk = os.read(key.fd, 1 << 16)
                said[key.data] += chunk
                size += len(chunk)
                if not chunk:
                    ready.unregister(key.fileobj)
            if size > limits.output:
                status = "output"
            elif _too_large(folder, limits):
                status = "files"
            elif time.monotonic() > end:
                status = "time"
            elif started[0].poll() is not None and not ready.select(0):
                break
    text = b"".join(said.values())[: limits.output].decode(errors="replace")
    if status is None:
        try:
            started[0].wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:  # it has closed its output and goes on
            status = "time"
    return status, text


def _too_large(folder: str, limits: Limits) -> bool:
    sizes = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # removed since
            sizes.append(entry.stat(follow_symlinks=False).st_size)
    return sum(sizes) > 10 * limits.file_bytes or len(sizes) > MOST_FILES


def _kill(process: subprocess.Popen) -> None:
    """Ends a process with all that it has started, and waits for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # it leads its session's only group
    process.wait()
    process.stdout.close()
