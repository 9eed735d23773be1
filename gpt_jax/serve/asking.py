"""Asking a model for completions, and answering whole or as a stream of events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gpt_jax.errors import UserError
from gpt_jax.generate.requests import Constraint
from gpt_jax.generate.text import Asked, Completion, draws
from gpt_jax.serve import tools
from gpt_jax.serve.answers import Answer
from gpt_jax.serve.bodies import Wanted
from gpt_jax.serve.service import Refused, Served, Service
from gpt_jax.serve.worker import Job


async def ask(request: Request, wanted: Wanted, chat: bool) -> Response:
    """Asks the engine, and answers whole or as a stream."""
    service = request.app.state.service
    name, served = service.chosen(wanted.model)
    model = served.worker.engine.model
    if not chat:
        model = model._replace(layout="document")  # a text is gone on with
    prompts = wanted.prompts
    if wanted.choice != "none":
        prompts = [tools.told(prompts[0], wanted.tools)]
    begin = _constraint(wanted, served)
    asked = [
        Asked(prompt, 0, wanted.sampling.stop, "")
        if isinstance(prompt[0], int)
        else model.asked(prompt, number, wanted.sampling, served.worker.engine.places)
        for number, prompt in enumerate(prompts)
    ]
    jobs: list[Job] = []
    news = []
    try:
        for one in draws(asked, wanted.sampling.n):
            for draw in one.names:
                job, its_news = served.worker.begin(
                    one.asked, wanted.sampling, draw, begin() if begin else None
                )
                jobs.append(job)
                news.append(its_news)
        answer = Answer(chat, name, wanted, model.tokenizer)
        if wanted.stream:
            chunks = _chunks(service, served, answer, jobs, news)
            return StreamingResponse(chunks, media_type="text/event-stream")
        found = await _all(request, news)
    except BaseException:
        _withdraw(served, jobs)
        raise
    _observe(service, name, jobs)
    return JSONResponse(answer.whole(found))


def _constraint(wanted: Wanted, served: Served) -> Callable[[], Constraint] | None:
    """What the text must look like."""
    if wanted.format == "text" and wanted.choice == "none":
        return None
    if served.constrain is None:
        raise UserError('this needs llguidance: pip install "gpt_jax[constraints]" on the server')
    if wanted.choice != "none":
        return tools.constraint(served.constrain, wanted.tools, wanted.choice)
    return served.constrain.json_schema(wanted.schema)


async def _all(request: Request, news: Sequence[asyncio.Queue]) -> list[Completion]:
    """Waits for all completions, as long as the client does."""

    async def last(its_news: asyncio.Queue) -> Completion:
        while True:
            one = await its_news.get()
            if one.error:
                raise Refused(500, one.error)
            if one.completion:
                return one.completion

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    waiting = asyncio.ensure_future(asyncio.gather(*map(last, news)))
    leaving = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return list(waiting.result())
    finally:
        waiting.cancel()
        leaving.cancel()


async def _chunks(
    service: Service,
    served: Served,
    answer: Answer,
    jobs: list[Job],
    news: Sequence[asyncio.Queue],
) -> AsyncIterator[str]:
    """The events of a stream; whoever leaves withdraws what is not done."""
    wanted, both = answer.wanted, asyncio.Queue()

    async def forward(index: int) -> None:
        while True:
            one = await news[index].get()
            await both.put((index, one))
            if one.completion or one.error:
                return

    tasks = [asyncio.create_task(forward(index)) for index in range(len(jobs))]
    found: dict[int, Completion] = {}
    try:
        for index in range(len(jobs)):
            if first := answer.begin(index):
                yield _event(first)
        while len(found) < len(jobs):
            index, one = await both.get()
            if one.error:
                yield _event({"error": {"message": one.error, "type": "server_error"}})
                return
            # A call is told when it is whole.
            if one.text and wanted.choice == "none":
                yield _event(answer.words(index, one.text))
            if one.completion:
                found[index] = one.completion
                if wanted.choice != "none" and not tools.calls_of(one.completion.text):
                    yield _event(answer.words(index, one.completion.text))
                yield _event(answer.end(index, one.completion))
        if wanted.usage:
            yield _event(answer.total([found[index] for index in range(len(jobs))]))
        yield "data: [DONE]\n\n"
        _observe(service, answer.name, jobs)
    finally:
        for task in tasks:
            task.cancel()
        _withdraw(served, jobs)


def _event(data: dict) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _withdraw(served: Served, jobs: Sequence[Job]) -> None:
    for job in jobs:
        served.worker.cancel(job)


def _observe(service: Service, name: str, jobs: Sequence[Job]) -> None:
    """Counts how long it took."""
    for job in jobs:
        service.metrics.first.labels(name).observe(job.first - job.began)
        service.metrics.whole.labels(name).observe(time.monotonic() - job.began)
