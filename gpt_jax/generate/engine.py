"""Continuous batching: requests of any length enter and leave while others go on.

    engine = Engine(open_run("runs/rlhf/tiny"), slots=32)
    engine.complete(["Who is Mira?", "What is 3 plus 4?"], Sampling(max_new_tokens=64))

A request waits for one of the slots, has its prompt read in chunks, and then draws tokens together
with all that run (Yu et al. 2022, "Orca"). What its prompt shares with an earlier one is not read
again (`memory.py`). Two programs do all of it, whatever the requests are. A completion is the one
that `TextModel.complete` gives.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from gpt_jax.errors import UserError
from gpt_jax.generate import slots as devices
from gpt_jax.generate.memory import SHARED, Pages, Rows, common
from gpt_jax.generate.requests import ALL, Constraint, Request, Slot, allowed, drawing_of
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Completion, Prompt, TextModel, draws
from gpt_jax.models.contract import for_decoding

READS = 4  # chunks of prompts between two drawings
PAGE = 64  # places


class Engine:
    """Slots, the requests in them, and those that wait.

    Attributes:
      model: whose text it is.
      places: the most tokens of a prompt with its completion.
      waiting: requests without a slot, first come first served.
      counters: tokens read, copied and drawn, and calls of the two programs.
    """

    def __init__(
        self,
        model: TextModel,
        slots: int = 32,
        places: int | None = None,
        *,
        pages: int | None = None,
        chunk: int = 64,
        rows: int = 4,
        steps: int = 8,
        top: int = 0,
    ):
        """
        Args:
          model: what answers.
          slots: how many requests run at once.
          places: of every slot; None: the model's context, 1,024 at most.
          pages: of PAGE places each, shared by all slots; None: every slot has its places to
            itself. Pages are for accelerators, whose kernel reads them where they lie; a CPU copies
            them at every token.
          chunk: tokens of a prompt that are read at a time.
          rows: prompts that are read at a time.
          steps: tokens that are drawn between two looks at what is new.
          top: the most `Sampling.logprobs` of any request.

        Raises:
          UserError: if the model has no key/value cache, or a smaller context.
        """
        context = model.config.context_length
        places = min(context, 1024) if places is None else places
        if not 2 <= places <= context:
            raise UserError(f"places is {places}, but must be 2 to {context}, the model's context")
        if pages is not None and pages < 1:
            raise UserError(f"pages is {pages}, but must be 1 or more; leave it out for rows")
        self.model, self.places = model, places
        self.waiting: collections.deque[Request] = collections.deque()
        self.counters: collections.Counter[str] = collections.Counter()
        self._chunk, self._rows, self._steps = min(chunk, places), rows, steps
        self._slots = [Slot() for _ in range(slots)]
        self._clock = itertools.count(1)
        tokenizer = model.tokenizer
        ends = (tokenizer.stop_ids, tokenizer.pad_id, tokenizer.vocab_size)
        self._program = devices.Program(model.config, *ends, top)
        self._words = -(-model.config.vocab_size // 32)
        with self.model.on_mesh():
            self._params = for_decoding(model.config, model.params)
            sizes = None if pages is None else (pages, PAGE)
            empty = devices.empty(model.config, slots, places, sizes)
            # Bound to its devices, as what the programs give back is: else they compile twice.
            self._state = jax.device_put(empty, jax.tree.map(lambda x: x.sharding, empty))
        self._memory = Pages(self._slots, *sizes, places) if sizes else Rows(self._slots)

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting) or any(slot.request for slot in self._slots)

    def submit(self, request: Request) -> Request:
        """Lets a request wait for a slot.

        Raises:
          UserError: as `check`.
        """
        self.check(request)
        self.waiting.append(request)
        return request

    def check(self, request: Request) -> None:
        """Looks at a request; it may be done from any thread.

        Raises:
          UserError: if it can never be answered.
        """
        new = request.sampling.max_new_tokens
        if not request.ids:
            raise UserError("the prompt has no token; say something")
        if len(request.ids) + new > self.places:
            raise UserError(
                f"a prompt of {len(request.ids)} tokens and {new} new ones do not fit in the "
                f"{self.places} of a slot; say it shorter, or give a smaller max_new_tokens"
            )
        self._memory.check(request)
        if request.sampling.logprobs > self._program.top:
            raise UserError(
                f"logprobs is {request.sampling.logprobs}, but this engine reports "
                f"{self._program.top} at the most; ask for fewer"
            )
        vocab_size = self.model.tokenizer.vocab_size
        if not 0 <= min(request.ids) <= max(request.ids) < vocab_size:
            raise UserError(f"the prompt has a token that is not one of 0 to {vocab_size - 1}")
        for token, _ in request.sampling.logit_bias:
            if not 0 <= token < vocab_size:
                raise UserError(
                    f"logit_bias names token {token}, but there are only {vocab_size}; give others"
                )

    def cancel(self, request: Request) -> None:
        """Withdraws a request, wherever it is; one that has ended stays as it is."""
        if request.finish_reason is not None:
            return
        request.finish_reason = "cancelled"
        with contextlib.suppress(ValueError):
            self.waiting.remove(request)
        for slot in self._slots:
            if slot.request is request:
                self._leave(slot)

    def advance(self) -> list[Request]:
        """Reads some chunks of prompts, or draws some tokens, or both.

        Returns:
          The requests that have new tokens or have ended.
        """
        changed = []
        self._admit()
        # A slot that reads draws nothing, so prompts are read first; yet those who run are not kept
        # waiting for long, unless most slots would stand idle meanwhile.
        for _ in range(READS):
            if not any(slot.reading for slot in self._slots):
                break
            changed += self._prefill()
        reading = sum(slot.reading for slot in self._slots)
        running = sum(slot.running for slot in self._slots)
        if running and running >= reading:
            changed += self._decode()
        return changed

    def complete(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling = Sampling(),
        constraint: Callable[[], Constraint] | None = None,
    ) -> list[Completion]:
        """As `TextModel.complete`, in slots.

        Args:
          prompts, sampling: as there; penalties and biases are allowed.
          constraint: begins what every completion must look like.
        """
        asked = [
            self.model.asked(prompt, i, sampling, self.places) for i, prompt in enumerate(prompts)
        ]
        requests, places = [], []
        for one in draws(asked, sampling.n):
            for name in one.names:
                bound = constraint() if constraint else None
                requests.append(self.submit(Request(one.asked.ids, sampling, name, bound)))
                places.append(one.asked)
        stops = {id(r): a.stops for r, a in zip(requests, places, strict=True) if a.stops}
        while self.busy:
            for request in self.advance():
                found = stops.get(id(request))
                if found and request.finish_reason is None:
                    text = self.model.tokenizer.decode(request.tokens)
                    if any(stop in text for stop in found):
                        self.cancel(request)
        return [
            self.model.completion(
                asked,
                request.tokens,
                request.logprobs,
                request.tops,
                request.finish_reason == "stop",
            )
            for request, asked in zip(requests, places, strict=True)
        ]

    def _leave(self, slot: Slot) -> None:
        """Takes the request out of a slot; what is in the cache stays known."""
        self._memory.leave(slot)
        slot.request, slot.read, slot.used = None, None, next(self._clock)

    def _admit(self) -> None:
        """Gives free slots to those who wait."""
        free, late = [slot for slot in self._slots if slot.request is None], []
        while free and self.waiting:
            request = self.waiting.popleft()
            ids = np.int32(request.ids)
            coming = max(
                common(np.int32(slot.request.ids), ids) if slot.reading else 0
                for slot in self._slots
            )
            if coming >= max(self._memory.shared(ids), SHARED) + self._chunk:
                late.append(request)  # another request is reading the same at the moment
                continue
            slot = self._memory.take(request, free)
            if slot is None:
                late.append(request)  # and nobody overtakes it
                break
            free.remove(slot)
            slot.request, slot.read, slot.used = request, None, next(self._clock)
        self.waiting.extendleft(reversed(late))

    def _prefill(self) -> list[Request]:
        """Reads the next chunk of the prompts that came first."""
        reading = sorted((s for s in self._slots if s.reading), key=lambda s: s.used)[: self._rows]
        for slot in reading:
            if slot.read is None:
                slot.read = slot.request.shared = self._memory.begin(slot)
                self.counters["copied"] += slot.read
        chunk = self._chunk_of(reading)
        drawn = self._call(devices.prefill, chunk)
        self.counters["prefills"] += 1
        changed = []
        for row, slot in enumerate(reading):
            count = int(chunk.counts_R[row])
            slot.read += count
            self._memory.read(slot)
            self.counters["read"] += count
            if not slot.reading:
                changed.append(slot.request)
                self._take(slot, jax.tree.map(lambda x: x[row], drawn))  # noqa: B023
        return changed

    def _chunk_of(self, reading: list[Slot]) -> devices.Chunk:
        """The next tokens of some prompts, with all that is to be known of their requests."""
        R, T, V = self._rows, self._chunk, self.model.config.vocab_size
        ids_RT = np.full((R, T), self._program.pad_id, np.int32)
        counts_R, starts_R = np.ones(R, np.int32), np.zeros(R, np.int32)
        sources_R = np.stack([self._memory.empty] * R)
        targets_R, last_R = np.full(R, len(self._slots), np.int32), np.zeros(R, bool)
        limits_R, (seeds_R, names_R) = np.zeros(R, np.int32), np.zeros((2, R), np.uint32)
        bias_RV, prompted_RV = np.zeros((R, V), np.float32), np.zeros((R, V), bool)
        mask_RW = np.full((R, self._words), ALL)
        settings = [Sampling()] * R
        for row, slot in enumerate(reading):
            request = slot.request
            some = request.ids[slot.read : slot.read + T]
            ids_RT[row, : len(some)], counts_R[row], starts_R[row] = some, len(some), slot.read
            sources_R[row], targets_R[row] = slot.source, self._slots.index(slot)
            last_R[row] = slot.read + len(some) == len(request.ids)
            settings[row] = request.sampling
            limits_R[row] = request.sampling.max_new_tokens
            seeds_R[row], names_R[row] = request.sampling.seed, request.name
            prompted_RV[row, request.ids] = True
            for token, bias in request.sampling.logit_bias:
                bias_RV[row, token] = bias
            if last_R[row]:
                mask_RW[row] = allowed(request)
        return devices.Chunk(
            *(ids_RT, counts_R, starts_R, sources_R, targets_R, last_R, limits_R),
            *(seeds_R, names_R, drawing_of(settings), bias_RV, prompted_RV, mask_RW),
        )

    def _decode(self) -> list[Request]:
        """Draws tokens for all that run."""
        running = [slot if slot.running else None for slot in self._slots]
        requests = [slot.request for slot in running if slot]
        mask_BW = np.full((len(running), self._words), ALL)
        for row, slot in enumerate(running):
            if slot:
                mask_BW[row] = allowed(slot.request)
        drawn = self._call(
            devices.decode,
            most=self._steps,
            steps=np.int32(1 if any(r.constraint for r in requests) else self._steps),
            keep_B=np.array([slot is not None for slot in running]),
            mask_BW=mask_BW,
        )
        self.counters["decodes"] += 1
        for row, slot in enumerate(running):
            for step in np.flatnonzero(drawn.valid[:, row]) if slot else ():
                self._take(slot, jax.tree.map(lambda x: x[step, row], drawn))  # noqa: B023
        return requests

    def _call(self, program, *args, **options) -> devices.Drawn:
        """Runs a program on the slots, and fetches what it drew."""
        with self.model.on_mesh():
            self._state, drawn = program(self._program, self._params, self._state, *args, **options)
        return jax.device_get(drawn)

    def _take(self, slot: Slot, drawn: devices.Drawn) -> None:
        """Gives a request its next token."""
        request, token = slot.request, int(drawn.ids)
        request.tokens.append(token)
        request.logprobs.append(float(drawn.logprobs))
        if wanted := request.sampling.logprobs:
            tops = zip(drawn.top_ids.tolist(), drawn.top_logprobs.tolist(), strict=True)
            request.tops.append(list(tops)[:wanted])
        self.counters["drawn"] += 1
        if request.constraint and request.error is None:
            try:
                request.constraint.take(token)
            except UserError as error:
                request.error = str(error)
        if request.error:
            request.finish_reason = "failed"
        elif token in self._program.stop_ids:
            request.finish_reason = "stop"
        elif len(request.tokens) == request.sampling.max_new_tokens:
            request.finish_reason = "length"
        if request.finish_reason:
            self._leave(slot)
