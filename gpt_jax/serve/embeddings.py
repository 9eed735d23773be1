"""/v1/embeddings: texts or tokens in, vectors out."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse

from gpt_jax.errors import UserError
from gpt_jax.generate.embeddings import Embedder, Input
from gpt_jax.serve.bodies import Reader
from gpt_jax.serve.turns import Turns

MOST_INPUTS = 2048


async def answer(request: Request, body: Any, turns: Turns) -> JSONResponse:
    """The vectors of what a request's body asks for, when its turn comes.

    `usage.cut_inputs` says how many texts were too long to be read whole, where there are some.

    Raises:
      UserError: saying what is wrong with the body.
      Refused: if no model of that name makes embeddings.
      Busy: if too many requests wait.
    """
    service = request.app.state.service
    read = Reader(body)
    read.only("model", "input", "encoding_format", "dimensions")
    name, embedder = service.embedder(read.get("model", str))
    inputs, form = _inputs(read), read.get("encoding_format", str, "float")
    if form not in ("float", "base64"):
        raise UserError(f"encoding_format is {form!r}, but must be float or base64")
    if (wanted := read.get("dimensions", int, embedder.width)) != embedder.width:
        raise UserError(f"dimensions is {wanted}, but {name}'s vectors have {embedder.width}")
    found = await turns.take(request, embedder.embed, inputs)
    write = _base64 if form == "base64" else np.ndarray.tolist
    data = [
        {"object": "embedding", "index": index, "embedding": write(vector_D)}
        for index, vector_D in enumerate(found.vectors_BD)
    ]
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    if found.cut:
        usage["cut_inputs"] = len(found.cut)
    return JSONResponse({"object": "list", "data": data, "model": name, "usage": usage})


def described(name: str, embedder: Embedder) -> dict[str, Any]:
    """An encoder's entry in /v1/models; `task` tells it from those that write."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "gpt_jax",
        "max_model_len": embedder.longest,
        "task": "embedding",
    }


def _inputs(read: Reader) -> list[Input]:
    """A text, tokens, or several of one of these, as a list."""
    given = read.get("input", (str, list))
    whole = [given] if isinstance(given, str) or (given and type(given[0]) is int) else given
    if not whole or len(whole) > MOST_INPUTS or not all(map(_is_input, whole)):
        raise UserError(
            f"input must be a text or token ids, or 1 to {MOST_INPUTS:,} of them, and none empty"
        )
    return whole


def _is_input(one: Any) -> bool:
    if isinstance(one, list):
        return bool(one) and all(type(i) is int for i in one)
    return isinstance(one, str) and bool(one)


def _base64(vector_D: np.ndarray) -> str:
    """The numbers' bytes, little-endian, as OpenAI's client reads them."""
    return base64.b64encode(vector_D.astype("<f4").tobytes()).decode()
