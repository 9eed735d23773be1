"""Whatever is not the engine's is computed one request after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from gpt_jax.serve.worker import Busy

LONGEST = 256  # requests


class Turns:
    """A queue of requests, each of which is computed in a thread when its turn comes.

    Args of the constructor: the most requests in it; further ones are told to come again.
    """

    def __init__(self, longest: int = LONGEST):
        self._longest, self._there, self._turn = longest, 0, asyncio.Lock()

    async def take(self, request: Request, compute: Callable[..., Any], *arguments: Any) -> Any:
        """`compute(*arguments)`.

        Raises:
          Busy: if the queue is full.
          ClientDisconnect: if the client has gone before its turn came.
        """
        if self._there >= self._longest:
            raise Busy
        self._there += 1
        try:
            async with self._turn:
                if await request.is_disconnected():
                    raise ClientDisconnect
                return await asyncio.to_thread(compute, *arguments)
        finally:
            self._there -= 1
