"""The pages of an engine: none is lost, and none is used by two that do not share its tokens."""

import collections

import numpy as np

from gpt_jax.generate.memory import Pages
from gpt_jax.generate.requests import Request, Slot
from gpt_jax.generate.sampling import Sampling

SIZE, TOTAL = 4, 12


def test_pages_under_random_requests():
    """Break it: leave a page known that was given to another, or free one that is still used."""
    rng = np.random.default_rng(0)
    slots = [Slot() for _ in range(5)]
    memory = Pages(slots, TOTAL, SIZE, places=32)
    holds: dict[int, tuple[int, ...]] = {}  # what a device would have: all tokens up to its end
    refused = shared = 0
    for _ in range(2000):
        free = [slot for slot in slots if slot.request is None]
        if free and rng.random() < 0.6:
            ids = rng.integers(0, 2, rng.integers(1, 20)).tolist()
            request = Request(ids, Sampling(max_new_tokens=int(rng.integers(1, 12))))
            slot = memory.take(request, free)
            if slot is None:
                refused += 1
                continue
            slot.request, slot.read = request, memory.begin(slot)
            shared += slot.read
            assert slot.read < len(ids)
            for number in range(slot.read // SIZE):
                assert holds[slot.pages[number]] == tuple(ids[: (number + 1) * SIZE])
            assert len(slot.pages) * SIZE >= len(ids) + request.sampling.max_new_tokens
            assert slot.source[: len(slot.pages)].tolist() == slot.pages
            write(holds, slot, ids, slot.read)
            slot.read = len(ids)
            memory.read(slot)
        elif len(free) < len(slots):
            slot = next(slot for slot in slots if slot.request is not None)
            count = rng.integers(1, slot.request.sampling.max_new_tokens + 1)
            slot.request.tokens = rng.integers(0, 2, count).tolist()
            whole = [*slot.request.ids, *slot.request.tokens[:-1]]
            write(holds, slot, whole, len(slot.request.ids))
            memory.leave(slot)
            slot.request = slot.read = None
        used = collections.Counter(page for slot in slots for page in slot.pages)
        idle = set(memory._idle)
        assert [used[page] for page in range(TOTAL)] == memory._users
        assert not idle & set(used) and not set(memory._free) & (idle | set(used))
        assert len(memory._free) + len(idle) + len(used) == TOTAL
    assert refused > 20 and shared > 200


def write(holds, slot, ids, start):
    """What the device does, from a place on; a page that others use is not written."""
    for number in range(start // SIZE, len(ids) // SIZE):
        holds[slot.pages[number]] = tuple(ids[: (number + 1) * SIZE])
