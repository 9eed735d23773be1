"""OpenAI's HTTP interface over workers, on Starlette."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpt_jax.errors import UserError
from gpt_jax.generate.embeddings import Embedder
from gpt_jax.serve import bodies, embeddings
from gpt_jax.serve.asking import ask
from gpt_jax.serve.metrics import Metrics
from gpt_jax.serve.service import Refused, Served, Service
from gpt_jax.serve.turns import Turns
from gpt_jax.serve.worker import Busy

# The page and what it loads; nothing of it comes from elsewhere, and no text becomes a script.
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/server.js": ("server.js", "text/javascript"),
    "/words.js": ("words.js", "text/javascript"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
MOST_BYTES = 2**20  # of a body
LIMIT = 256  # new tokens where the client does not say


def make_app(
    served: dict[str, Served],
    api_key: str | None = None,
    vote: Callable[[dict], None] | None = None,
    encoders: Mapping[str, Embedder] = {},
) -> Starlette:
    """The application; its arguments are as the attributes of Service."""
    metrics = Metrics({name: one.worker for name, one in served.items()})

    def route(path: str, answer: Callable, method: str = "GET", open_: bool = False) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                if not open_:
                    _let_in(request, api_key)
                response = await answer(request)
            except Refused as refused:
                response = _error(refused.status, refused.why, refused.headers)
            except Busy:
                why = "too many requests wait; try again in a while"
                response = _error(503, why, {"Retry-After": "5"})
            except UserError as error:
                response = _error(400, str(error))
            except ClientDisconnect:
                response = Response(status_code=499)
            metrics.answers.labels(path, str(response.status_code)).inc()
            return response

        return Route(path, endpoint, methods=[method])

    app = Starlette(
        routes=[
            *(route(path, _file, open_=True) for path in FILES),
            route("/health", _health, open_=True),
            route("/metrics", _metrics),
            route("/v1/models", _models),
            route("/v1/chat/completions", _chat, "POST"),
            route("/v1/completions", _completions, "POST"),
            route("/v1/embeddings", _embeddings, "POST"),
            route("/v1/votes", _votes, "POST"),
        ]
    )
    app.state.service = Service(served, metrics, api_key, vote, encoders)
    app.state.turns = Turns()
    return app


def _let_in(request: Request, api_key: str | None) -> None:
    """Only who shows the key, and only pages of this server: a browser says which page asks."""
    shown = request.headers.get("authorization", "").removeprefix("Bearer ")
    if api_key is not None and not hmac.compare_digest(shown.encode(), api_key.encode()):
        raise Refused(401, "the API key is missing or wrong; send it as a Bearer token")
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if origin is not None and origin.split("://")[-1] != host:
        raise Refused(403, "another site's page may not ask this server")


def _error(status: int, why: str, headers: dict[str, str] | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": why, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status, headers)


async def _body(request: Request) -> Any:
    """The JSON of a request."""
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > MOST_BYTES:
            raise Refused(413, f"the body is longer than {MOST_BYTES:,} bytes; send less")
    try:
        body = json.loads(found, parse_constant=_no_number)
        json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return body
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON ({error})") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


async def _file(request: Request) -> Response:
    name, kind = FILES[request.url.path]
    text = Path(__file__).with_name(name).read_text("utf-8")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Response(text, media_type=kind, headers=headers)


async def _health(request: Request) -> Response:
    failed = {
        name: one.worker.failed
        for name, one in request.app.state.service.served.items()
        if one.worker.failed
    }
    return JSONResponse({"status": "failed" if failed else "ok"} | failed, 503 if failed else 200)


async def _metrics(request: Request) -> Response:
    return Response(request.app.state.service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _models(request: Request) -> Response:
    """The models; beside OpenAI's fields how many tokens each reads, and whether votes are kept."""
    service = request.app.state.service
    data = [
        {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "gpt_jax",
            "max_model_len": one.worker.engine.places,
        }
        for name, one in service.served.items()
    ]
    data += [embeddings.described(*one) for one in service.encoders.items()]
    return JSONResponse({"object": "list", "data": data, "votes": service.vote is not None})


async def _chat(request: Request) -> Response:
    return await ask(request, bodies.chat(await _body(request), LIMIT), chat=True)


async def _completions(request: Request) -> Response:
    return await ask(request, bodies.completion(await _body(request), LIMIT), chat=False)


async def _embeddings(request: Request) -> Response:
    return await embeddings.answer(request, await _body(request), request.app.state.turns)


async def _votes(request: Request) -> Response:
    """A user's choice between two answers, as a row of comparisons."""
    service = request.app.state.service
    if service.vote is None:
        raise Refused(404, "this server keeps no votes; start it with --votes FILE")
    read = bodies.Reader(await _body(request))
    read.only("messages", "answers", "better", "models", "stopped")
    messages = bodies.messages_of(bodies.Reader({"messages": read.get("messages", list)}))
    answers = read.get("answers", list, [])
    better = read.get("better", int, -1)
    if len(answers) != 2 or not all(isinstance(one, str) and one for one in answers):
        raise UserError("answers must be two texts")
    if better not in (0, 1):
        raise UserError("better must be 0 or 1")
    row = {"prompt": messages, "chosen": answers[better], "rejected": answers[1 - better]}
    if models := read.get("models", list, []):
        if len(models) != 2 or not all(isinstance(one, str) and one for one in models):
            raise UserError("models must be the two names, in the order of the answers")
        row |= {"chosen_model": models[better], "rejected_model": models[1 - better]}
    if stopped := read.get("stopped", list, []):
        if len(stopped) != 2 or not all(isinstance(one, bool) for one in stopped):
            raise UserError("stopped must say of the two answers whether they ended by themselves")
        row |= {"chosen_stopped": stopped[better], "rejected_stopped": stopped[1 - better]}
    await asyncio.to_thread(service.vote, row)
    return JSONResponse({"kept": True})
