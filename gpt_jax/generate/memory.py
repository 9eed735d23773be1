"""Where an engine has the keys and values of its requests: each in a row, or all in pages.

Both know which tokens lie where, so that what a prompt has in common with an earlier one is not
read again. Rows are copied (Zheng et al. 2024, "SGLang", keep a tree); pages are used by several
requests at once (Kwon et al. 2023, "PagedAttention").
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.generate.requests import Request, Slot

SHARED = 16  # tokens: for fewer in common a copy is not worth its while


class Rows:
    """Every slot has a row of the cache, which keeps what it held until it is used again."""

    def __init__(self, slots: list[Slot]):
        self._slots = slots
        self.empty = np.int32(0)  # the source of nothing

    def check(self, request: Request) -> None:
        """A row has room for whatever fits a slot."""

    def shared(self, ids: np.ndarray) -> int:
        """How many tokens of a prompt are there already."""
        return max(common(slot.known, ids) for slot in self._slots)

    def take(self, request: Request, free: list[Slot]) -> Slot | None:
        """The slot that a request gets: the one with most of its prompt, else the oldest."""
        ids = np.int32(request.ids)
        return min(free, key=lambda slot: (-common(slot.known, ids), slot.used))

    def begin(self, slot: Slot) -> int:
        """How many tokens of its prompt need not be read; where they are is known afterwards."""
        ids = np.int32(slot.request.ids)
        shared = [common(other.known, ids) for other in self._slots]
        slot.source = np.int32(np.argmax(shared))
        start = min(shared[slot.source], len(ids) - 1)  # the first token is drawn after the last
        return start if start >= SHARED else 0

    def read(self, slot: Slot) -> None:
        """More of its prompt is there, in its own row."""
        slot.known = np.int32(slot.request.ids[: slot.read])
        slot.source = np.int32(self._slots.index(slot))

    def leave(self, slot: Slot) -> None:
        """The request has ended."""
        if slot.running:
            slot.known = written(slot.request)


class Pages:
    """A pool of pages; those that nobody uses keep what they hold until they are needed.

    A request takes all pages that it may come to need at its beginning, so that it never stops for
    want of one. Full pages are known by a digest of all tokens up to their end.
    """

    def __init__(self, slots: list[Slot], pages: int, size: int, places: int):
        self._size, self._total = size, pages
        self._most = -(-places // size)
        self._free = list(range(pages))
        self._users = [0] * pages
        self._known: dict[bytes, int] = {}
        self._digest: dict[int, bytes] = {}
        self._idle: collections.OrderedDict[int, None] = collections.OrderedDict()  # oldest first
        self.empty = np.full(self._most, pages, np.int32)

    def check(self, request: Request) -> None:
        """Raises a UserError if there are not so many pages at all."""
        needed = self._pages_for(request)
        if needed > self._total:
            raise UserError(
                f"a prompt of {len(request.ids)} tokens and {request.sampling.max_new_tokens} new "
                f"ones need {needed} pages of {self._size}, but there are {self._total}; say it "
                "shorter, or give a smaller max_new_tokens"
            )

    def shared(self, ids: np.ndarray) -> int:
        """As in `Rows`."""
        return len(self._there(ids)) * self._size

    def take(self, request: Request, free: list[Slot]) -> Slot | None:
        """As in `Rows`; None while there are not pages enough."""
        there = self._there(np.int32(request.ids))
        new = self._pages_for(request) - len(there)
        if new > len(self._free) + sum(page not in there for page in self._idle):
            return None
        for page in there:
            self._users[page] += 1
            self._idle.pop(page, None)
        slot = min(free, key=lambda slot: slot.used)
        slot.pages = there + [self._new() for _ in range(new)]
        slot.source = self.empty.copy()
        slot.source[: len(slot.pages)] = slot.pages
        slot.begun = len(there) * self._size
        return slot

    def begin(self, slot: Slot) -> int:
        """As in `Rows`."""
        return slot.begun

    def read(self, slot: Slot) -> None:
        """As in `Rows`: from now on others may use the pages that are full."""
        self._publish(slot, np.int32(slot.request.ids[: slot.read]))

    def leave(self, slot: Slot) -> None:
        """As in `Rows`."""
        if slot.running:
            self._publish(slot, written(slot.request))
        for page in reversed(slot.pages):  # what stands behind others is forgotten before them
            self._users[page] -= 1
            if not self._users[page] and page in self._digest:
                self._idle[page] = None
            elif not self._users[page]:
                self._free.append(page)
        slot.pages = []

    def _pages_for(self, request: Request) -> int:
        return -(-(len(request.ids) + request.sampling.max_new_tokens) // self._size)

    def _there(self, ids: np.ndarray) -> list[int]:
        """The pages that hold a prompt's beginning; one token at least is left to be read."""
        found = []
        for digest in self._digests(ids[: len(ids) - 1]):
            if digest not in self._known:
                break
            found.append(self._known[digest])
        return found

    def _publish(self, slot: Slot, ids: np.ndarray) -> None:
        for page, digest in zip(slot.pages, self._digests(ids), strict=False):
            if digest not in self._known and page not in self._digest:
                self._known[digest], self._digest[page] = page, digest

    def _new(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._known[self._digest.pop(page)]
        self._users[page] = 1
        return page

    def _digests(self, ids: np.ndarray) -> Iterator[bytes]:
        """Of every full page, with all before it."""
        digest = b""
        for end in range(self._size, len(ids) + 1, self._size):
            some = np.ascontiguousarray(ids[end - self._size : end], np.int32).tobytes()
            digest = hashlib.blake2b(digest + some, digest_size=16).digest()
            yield digest


def written(request: Request) -> np.ndarray:
    """The tokens whose keys and values are in the cache: the last that was drawn is not."""
    return np.int32([*request.ids, *request.tokens[:-1]])


def common(a: np.ndarray, b: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n
