"""How a command ends: in one sentence where the user can mend something, and quietly in a pipe."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator

from gpt_jax.errors import UserError

PIPE_CLOSED = 141  # what a shell says of a program that SIGPIPE has ended


@contextlib.contextmanager
def ending_plainly() -> Iterator[None]:
    """Around the body of every command.

    A UserError is printed as its sentence, with exit code 2. Where the reader of the output has
    left (`--help | head -1`), the command ends without a word.
    """
    try:
        try:
            yield
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        finally:
            sys.stdout.flush()  # Python would do it later, outside of every `try`
    except BrokenPipeError:
        if not _leave_closed_pipes():
            raise  # it was another pipe
        sys.exit(PIPE_CLOSED)


def _leave_closed_pipes() -> bool:
    """Points the output that nobody reads to nowhere; whether there is any."""
    found = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream, select.POLLOUT)
        if any(event & select.POLLERR for _, event in poll.poll(0)):  # a pipe without a reader
            found = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return found
