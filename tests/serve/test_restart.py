"""A server as a process: its memory after a thousand requests, and its next life after SIGKILL."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from gpt_jax.generate.sampling import Sampling  # noqa: E402
from gpt_jax.generate.text import TextModel  # noqa: E402
from gpt_jax.models import init  # noqa: E402
from gpt_jax.models.config import ModelConfig  # noqa: E402
from gpt_jax.text.tokenizer import Tokenizer  # noqa: E402
from tests import tiny  # noqa: E402

pytestmark = pytest.mark.slow

WORDS = ["hello", "you", "there", "how are", "are you there"]
REQUESTS = 1000


@pytest.fixture(scope="module")
def model() -> TextModel:
    tokenizer = Tokenizer.train(["hello there, how are you?"] * 4, 280)
    config = ModelConfig(vocab_size=288, context_length=128, width=16, layers=1, heads=2)
    params = jax.tree.map(lambda x: 3.0 * x, init(config, jax.random.key(0)))
    return TextModel(config, params, tokenizer)


@pytest.fixture
def start(model, tmp_path):
    """Starts a server on one and the same port, and waits until it answers."""
    folder = tiny.run_folder(tmp_path / "sft", model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []

    def begin() -> tuple[subprocess.Popen, str]:
        command = ["-m", "gpt_jax.serve", str(folder), "--port", str(port), "--slots", "16"]
        process = subprocess.Popen(
            [sys.executable, *command, "--places", "128", "--queue", str(2 * REQUESTS)]
        )
        started.append(process)
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, "the server has ended"
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    return process, url
            except httpx.TransportError:
                time.sleep(0.2)
        raise AssertionError("the server does not answer")

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_memory_returns_and_a_killed_server_serves_again(start, model):
    """Break it: keep the requests that have ended, or the bodies of those that were broken."""
    rng = random.Random(0)
    prompts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 5))) for _ in range(40)]
    sampling = Sampling(temperature=0.0, max_new_tokens=12)
    answers = [one.text for one in model.complete(prompts, sampling)]
    expected = dict(zip(prompts, answers, strict=True))

    process, url = start()
    asyncio.run(_ask(url, expected, REQUESTS // 2, rng))  # allocators and caches are filled
    before = _resident(process.pid)
    done = asyncio.run(_ask(url, expected, REQUESTS, rng))
    assert len(done) == REQUESTS and done.count("answered") > REQUESTS / 2
    time.sleep(1.0)
    grown = _resident(process.pid) - before
    assert grown < 30e6, f"{grown / 1e6:.1f} MB more after {REQUESTS} requests"

    process.send_signal(signal.SIGKILL)
    process.wait()
    _, url = start()
    assert _once(url, prompts[0]) == expected[prompts[0]]


def _resident(pid: int) -> int:
    """Bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _body(prompt: str) -> dict:
    messages = [{"role": "user", "content": prompt}]
    return {"messages": messages, "temperature": 0, "max_tokens": 12}


def _once(url: str, prompt: str) -> str:
    reply = httpx.post(f"{url}/v1/chat/completions", json=_body(prompt), timeout=60)
    return reply.json()["choices"][0]["message"]["content"]


async def _ask(url: str, expected: dict, count: int, rng: random.Random) -> list[str]:
    """Many at once: answers are compared, some clients leave, and some bodies are broken."""
    prompts = list(expected)

    async def one(client: httpx.AsyncClient, number: int) -> str:
        kind, prompt = rng.random(), prompts[number % len(prompts)]
        if kind < 0.1:
            content = json.dumps(_body(prompt))[: rng.randint(1, 40)].encode() + b"\xff" * 1000
            reply = await client.post("/v1/chat/completions", content=content)
            assert reply.status_code == 400
            return "broken"
        if kind < 0.3:
            body = _body(prompt) | {"stream": True}
            async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                async for _ in reply.aiter_lines():
                    if rng.random() < 0.5:
                        return "left"
            return "streamed"
        reply = await client.post("/v1/chat/completions", json=_body(prompt))
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == expected[prompt]
        return "answered"

    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        return await asyncio.gather(*(one(client, number) for number in range(count)))
