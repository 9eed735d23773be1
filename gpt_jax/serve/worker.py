"""The thread that owns an engine: requests come in from many tasks, tokens go out to them."""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.generate.engine import Engine
from gpt_jax.generate.requests import Constraint, Request
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.streaming import progress
from gpt_jax.generate.text import Asked, Completion


class Busy(Exception):
    """So many wait that another would wait too long."""


class News(NamedTuple):
    """What is new of a completion.

    Attributes:
      text: what is added to it.
      completion: the whole, once it has ended.
      error: what went wrong with it, instead.
    """

    text: str = ""
    completion: Completion | None = None
    error: str | None = None


@dataclasses.dataclass(eq=False)
class Job:
    """One completion on its way to a client.

    Attributes:
      asked: the prompt as the model reads it, and its stop strings.
      request: the engine's.
      tell: is given the News, from the worker's thread.
      sent: how much of the text was told.
      began, first: when it was asked for, and when its first token came (seconds, monotonic).
    """

    asked: Asked
    request: Request
    tell: Callable[[News], None]
    sent: int = 0
    began: float = dataclasses.field(default_factory=time.monotonic)
    first: float | None = None


class Worker:
    """Runs an engine until it is closed.

    Attributes:
      engine: nobody else may touch it.
      longest: how many completions may wait or run.
      jobs: those that do.
      failed: what ended the thread, if anything did.
    """

    def __init__(self, engine: Engine, longest: int = 256):
        self.engine, self.longest = engine, longest
        self.jobs: dict[int, Job] = {}
        self.failed: str | None = None
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; what runs is withdrawn."""
        self._closed.set()
        self._inbox.put(None)
        self._thread.join()

    def begin(
        self,
        asked: Asked,
        sampling: Sampling,
        name: int,
        constraint: Constraint | None = None,
    ) -> tuple[Job, asyncio.Queue]:
        """Asks for one completion, from a task of asyncio.

        Returns:
          The job, to be given to `cancel` if nobody wants it any more, and the queue of its News.

        Raises:
          UserError: if it fits no slot.
          Busy: if too many wait.
        """
        if self.failed:
            raise UserError(f"the engine has ended ({self.failed}); start the server again")
        if len(self.jobs) >= self.longest:
            raise Busy
        request = Request(asked.ids, sampling, name, constraint)
        self.engine.check(request)
        loop, news = asyncio.get_running_loop(), asyncio.Queue()

        def tell(one: News) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.put_nowait, one)

        job = Job(asked, request, tell)
        self.jobs[id(request)] = job
        self._inbox.put(job)
        return job, news

    def cancel(self, job: Job) -> None:
        """Withdraws a completion; nothing happens if it has ended."""
        if self.jobs.pop(id(job.request), None):
            self._inbox.put(job.request)

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                self._receive()
                for request in self.engine.advance():
                    self._report(request)
        except Exception as error:  # whoever waits must hear of it, whatever it is
            traceback.print_exc()
            self.failed = f"{type(error).__name__}: {error}"
            for job in list(self.jobs.values()):
                job.tell(News(error=f"the engine has ended ({self.failed})"))
            self.jobs.clear()

    def _receive(self) -> None:
        """Takes what came in; waits for something if there is nothing else to do."""
        wait = not self.engine.busy
        while wait or not self._inbox.empty():
            one, wait = self._inbox.get(), False
            if isinstance(one, Job):
                # Withdrawn before it began.
                if id(one.request) in self.jobs:
                    self.engine.submit(one.request)
            elif one is not None:
                self.engine.cancel(one)

    def _report(self, request: Request) -> None:
        """Tells a client what is new of its completion."""
        job = self.jobs.get(id(request))
        if job is None:
            return
        job.first = job.first or time.monotonic()
        text, completion = progress(self.engine.model, job.asked, request)
        if completion:
            self.jobs.pop(id(request), None)
            self.engine.cancel(request)
            job.tell(News(text[job.sent :], completion))
        elif len(text) > job.sent:
            job.tell(News(text[job.sent :]))
            job.sent = len(text)
