"""The process in which rules run, started by `workers.py`; only the standard library is imported.

    python worker.py < pickled rules, then pickled batches of rows

It imports the rules once and runs none itself: for every batch it forks processes that do, and
kills those in which a row takes too long. Whatever a rule does to its process (end it, crash it,
fork, print, spoil a global) has no effect on the next batch.
"""

import contextlib
import ctypes
import json
import math
import os
import pickle
import selectors
import signal
import struct
import sys
import time
from typing import BinaryIO, NamedTuple

SIZE = struct.Struct("<Q")
PR_SET_PDEATHSIG = 1


class Child(NamedTuple):
    """A process that scores some rows.

    Attributes:
      pid: of the process and of its group.
      pipe: its answers, a line for each row.
      rows: the numbers of those rows whose answers are still to come.
      ends: when the first of them has had its time.
    """

    pid: int
    pipe: BinaryIO
    rows: list[int]
    ends: float


def main() -> None:
    die_with_parent()
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what rules print is seen, and is no answer
    settings = pickle.loads(receive(asked))
    sys.path[:] = settings["path"]
    rules = [pickle.loads(rule) for rule in settings["rules"]]
    while (data := receive(asked)) is not None:
        found = score(rules, pickle.loads(data), settings["seconds"], settings["processes"])
        send(answers, json.dumps(found).encode())


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends, however it does."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def send(stream: BinaryIO, data: bytes) -> None:
    stream.write(SIZE.pack(len(data)) + data)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """A message; None at the end of the stream."""
    size = stream.read(SIZE.size)
    return stream.read(*SIZE.unpack(size)) if len(size) == SIZE.size else None


def score(rules: list, rows: list[tuple], seconds: float, processes: int) -> list:
    """The answers to rows (number of a rule, record, text, stopped): [score, None], or [None, why].

    A row that ends its process or has no answer in time is answered for it, and those after it get
    a new process.
    """
    found: list = [None] * len(rows)
    with selectors.DefaultSelector() as ready:

        def start(numbers: list[int]) -> None:
            if numbers:
                child = fork(rules, rows, numbers, time.monotonic() + seconds)
                ready.register(child.pipe, selectors.EVENT_READ, child)

        for first in range(processes):
            start(list(range(first, len(rows), processes)))
        while ready.get_map():
            left = min(key.data.ends for key in ready.get_map().values()) - time.monotonic()
            heard = {key.fd: key.data for key, _ in ready.select(max(0.0, left))}
            for key in list(ready.get_map().values()):
                child, line = key.data, None
                if key.fd in heard:
                    line = child.pipe.readline()
                elif time.monotonic() < child.ends:
                    continue
                if line and line.endswith(b"\n"):
                    found[child.rows[0]] = json.loads(line)
                    child.rows.pop(0)
                    child = child._replace(ends=time.monotonic() + seconds)
                    ready.modify(child.pipe, selectors.EVENT_READ, child)
                    if child.rows:
                        continue
                ready.unregister(child.pipe)
                how = end(child)
                if child.rows:
                    why = f"ended its process ({how})" if line is not None else None
                    found[child.rows[0]] = [None, why or f"took more than {seconds:g} s"]
                start(child.rows[1:])
    return found


def fork(rules: list, rows: list[tuple], numbers: list[int], ends: float) -> Child:
    """Starts a process that scores the rows of these numbers."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writes)
        # Not buffered: a line that Python had read ahead would not wake the selector.
        return Child(pid, os.fdopen(reads, "rb", buffering=0), list(numbers), ends)
    try:
        die_with_parent()
        os.setsid()
        for number in numbers:
            rule, *row = rows[number]
            answer = json.dumps(ask(rules[rule], row)).encode() + b"\n"
            os.write(writes, answer)
    finally:
        os._exit(0)


def ask(rule, row: list) -> list:
    """[score, None], or [None, why there is none]."""
    me = os.getpid()
    try:
        given = rule(*row)
    except BaseException as error:  # whatever it is, it is this row's
        given, why = None, f"raised {type(error).__name__}: {error}"[:300]
    else:
        why = None
    if os.getpid() != me:
        os._exit(0)  # a process that the rule has forked, come back from it
    if why is not None:
        return [None, why]
    number = math.nan
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        number = float(given)
    return [number, None] if math.isfinite(number) else [None, f"gave {given!r}"[:300]]


def end(child: Child) -> str:
    """Kills a process with all that it has started; how it ended, if it had."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
        os.kill(child.pid, signal.SIGKILL)
    _, status = os.waitpid(child.pid, 0)
    child.pipe.close()
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    main()
