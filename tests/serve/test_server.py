"""The server, asked by the official `openai` client and by clients that misbehave."""

import asyncio
import json
import math
import random
import socket
import threading
import time

import jax
import pytest

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("llguidance")

from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.generate.constraints import Constrain  # noqa: E402
from gpt_jax.generate.embeddings import embedder  # noqa: E402
from gpt_jax.generate.engine import Engine  # noqa: E402
from gpt_jax.generate.sampling import Sampling  # noqa: E402
from gpt_jax.generate.text import TextModel  # noqa: E402
from gpt_jax.models import init  # noqa: E402
from gpt_jax.models.config import ModelConfig  # noqa: E402
from gpt_jax.serve.app import make_app  # noqa: E402
from gpt_jax.serve.service import Served  # noqa: E402
from gpt_jax.serve.worker import Worker  # noqa: E402
from gpt_jax.text.tokenizer import Tokenizer  # noqa: E402

KEY = "a key of the test"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model() -> TextModel:
    tokenizer = Tokenizer.train(["hello there, how are you?", '{"name": "x"}'] * 4, 280)
    config = ModelConfig(vocab_size=288, context_length=640, width=16, layers=1, heads=2)
    params = jax.tree.map(lambda x: 3.0 * x, init(config, jax.random.key(0)))
    return TextModel(config, params, tokenizer)


@pytest.fixture(scope="module")
def votes() -> list:
    return []


@pytest.fixture(scope="module")
def server(model, votes):
    """(URL, worker) of a server on the loopback address."""
    engine = Engine(model, slots=8, steps=4, top=5)
    worker = Worker(engine, longest=2000)
    served = Served(worker, Constrain(model.tokenizer, 288), embedder(model))
    app = make_app({"tiny": served}, KEY, votes.append)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}", worker
    running.should_exit = True
    thread.join()
    worker.close()


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server[0]}/v1", api_key=KEY, max_retries=0, timeout=120)


def test_a_chat_is_what_the_model_completes(client, model):
    reply = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, max_tokens=12
    )
    (ours,) = model.complete(["hello"], Sampling(temperature=0.0, max_new_tokens=12))
    choice = reply.choices[0]
    assert choice.message.content == ours.text
    assert choice.finish_reason == ("length" if ours.finish_reason == "length" else "stop")
    assert reply.usage.prompt_tokens == ours.prompt_tokens
    assert reply.usage.completion_tokens == len(ours.tokens)
    assert [one.id for one in client.models.list()] == ["tiny"]


def test_a_stream_is_the_same_in_parts(client):
    options = dict(model="tiny", messages=HELLO, seed=3, max_tokens=24, n=2)
    whole = client.chat.completions.create(**options)
    texts, ends, total = {0: "", 1: ""}, {}, None
    stream = client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        total = chunk.usage or total
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    assert texts == {one.index: one.message.content for one in whole.choices}
    assert ends == {one.index: one.finish_reason for one in whole.choices}
    assert total == whole.usage


def test_stop_strings_never_show(client):
    free = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, max_tokens=24
    )
    text = free.choices[0].message.content
    stop = text[len(text) // 2 :][:2]
    stream = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, max_tokens=24, stop=[stop], stream=True
    )
    parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(parts) == text[: text.index(stop)]


def test_logprobs_are_of_the_tokens(client):
    reply = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3
    )
    content = reply.choices[0].logprobs.content
    assert len(content) == reply.usage.completion_tokens
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.token == token.top_logprobs[0].token  # greedy
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob, abs=1e-5)
    old = client.completions.create(model="tiny", prompt="hello", max_tokens=4, logprobs=2)
    assert len(old.choices[0].logprobs.tokens) == len(old.choices[0].logprobs.top_logprobs) == 4


def test_the_bytes_of_all_tokens_are_the_text(client):
    """Break it: give every token the bytes of what it says alone."""
    for seed in range(4):
        reply = client.chat.completions.create(
            model="tiny", messages=HELLO, seed=seed, max_tokens=32, logprobs=True
        )
        (choice,) = reply.choices
        spelt = b"".join(bytes(token.bytes) for token in choice.logprobs.content).decode()
        assert spelt.removeprefix(" ") == choice.message.content


def test_turns_that_do_not_fit_are_left_out_and_counted(client):
    """Invariant 14."""
    said = [HELLO[0], {"role": "assistant", "content": "hello there, how are you? " * 8}] * 8
    for stream in (False, True):
        reply = client.chat.completions.create(
            model="tiny", messages=[*said, *HELLO], max_tokens=4, stream=stream,
            **({"stream_options": {"include_usage": True}} if stream else {}),
        )  # fmt: skip
        usage = list(reply)[-1].usage if stream else reply.usage
        assert 0 < usage.left_out_turns < 16


def test_the_models_say_how_much_they_read(server):
    found = httpx.get(f"{server[0]}/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert found["votes"] and [one["max_model_len"] for one in found["data"]] == [640]


def test_a_served_model_judges_an_arena(server, model, monkeypatch):
    """`--judge-model NAME@URL`; one that cannot be asked is said at the start."""
    from experiments import arena

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    options = arena.Options(models=("a", "b"))
    sampling = Sampling(temperature=0.0, max_new_tokens=4)
    complete = arena._complete_of(f"tiny@{server[0]}/v1", [HELLO], options, sampling)
    assert complete(["hello"], sampling)[0].text == model.complete(["hello"], sampling)[0].text
    with pytest.raises(UserError, match="there is no model 'other'; there is tiny"):
        arena._complete_of(f"other@{server[0]}/v1", [HELLO], options, sampling)
    monkeypatch.setattr(arena, "open_run", lambda where: model)
    long = [{"role": "user", "content": "x" * 1000}]
    with pytest.raises(UserError, match="--judge-model it cannot be asked: prompt 1 is too long"):
        arena._complete_of("it", [HELLO, long], options, sampling)


def test_a_schema_binds(client):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    for seed in range(4):
        reply = client.chat.completions.create(
            model="tiny", messages=HELLO, seed=seed, max_tokens=40, response_format=wanted
        )
        assert 0 <= json.loads(reply.choices[0].message.content)["n"] <= 99


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_by_their_schema(client, stream):
    parameters = {
        "type": "object",
        "properties": {"town": {"enum": ["Fada", "Pilo"]}},
        "required": ["town"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "look_up", "parameters": parameters}}
    reply = client.chat.completions.create(
        model="tiny", messages=HELLO, tools=[tool], tool_choice="required", max_tokens=80,
        stream=stream,
    )  # fmt: skip
    if stream:
        chunks = [chunk.choices[0] for chunk in reply]
        assert chunks[-1].finish_reason == "tool_calls"
        (call,) = chunks[-1].delta.tool_calls
    else:
        assert reply.choices[0].finish_reason == "tool_calls"
        (call,) = reply.choices[0].message.tool_calls
    assert call.function.name == "look_up"
    assert json.loads(call.function.arguments)["town"] in ("Fada", "Pilo")


def test_embeddings_have_length_one(client):
    found = client.embeddings.create(
        model="tiny", input=["hello", "hello there", "hello"], encoding_format="float"
    )
    one, two, same = (item.embedding for item in found.data)
    assert math.hypot(*one) == pytest.approx(1, abs=1e-5)
    assert one == pytest.approx(same, abs=1e-6) and one != pytest.approx(two, abs=1e-3)


BROKEN = [
    ("/v1/chat/completions", b"{", 400),
    ("/v1/chat/completions", b"[]", 400),
    ("/v1/chat/completions", b"\xff\xfe", 400),
    ("/v1/chat/completions", b"[" * 100_000, 400),
    ("/v1/chat/completions", b"x" * (2**20 + 1), 413),
    ("/v1/chat/completions", {"messages": []}, 400),
    ("/v1/chat/completions", {"messages": "hello"}, 400),
    ("/v1/chat/completions", {"messages": [{"role": "king", "content": "hello"}]}, 400),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "model": "other"}, 404),
    ("/v1/chat/completions", {"messages": HELLO, "temperature": "hot"}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "temperature": 1e999}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 0}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 10**9}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "n": 10**6}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "wishes": 3}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "logit_bias": {"99999": 1}}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "stop": [""]}, 400),
    ("/v1/chat/completions", {"messages": HELLO, "tool_choice": "required"}, 400),
    ("/v1/completions", {"prompt": []}, 400),
    ("/v1/completions", {"prompt": [[10**9]], "max_tokens": 2}, 400),
    ("/v1/completions", {"prompt": "hello " * 1000, "max_tokens": 2}, 400),
    ("/v1/embeddings", {"input": ""}, 400),
    ("/v1/completions", {"prompt": "half a pair \ud800"}, 400),
    ("/v1/votes", {"messages": HELLO, "answers": ["a", "\ud800"], "better": 0}, 400),
    ("/v1/votes", {"messages": HELLO, "answers": ["a"], "better": 0}, 400),
    (
        "/v1/votes",
        {"messages": HELLO, "answers": ["a", "b"], "better": 0, "models": ["x"]},
        400,
    ),
    (
        "/v1/votes",
        {"messages": HELLO, "answers": ["a", "b"], "better": 0, "stopped": [True, 1]},
        400,
    ),
    ("/v1/nothing", {}, 404),
]


@pytest.mark.parametrize("path, body, status", BROKEN, ids=range(len(BROKEN)))
def test_what_is_broken_is_answered_so(server, path, body, status):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = httpx.post(
        server[0] + path, content=content, headers={"Authorization": f"Bearer {KEY}"}, timeout=60
    )
    assert reply.status_code == status, reply.text
    assert httpx.get(f"{server[0]}/health").json() == {"status": "ok"}


def test_only_who_has_the_key_is_answered(server):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert httpx.get(f"{server[0]}/v1/models", headers=headers).status_code == 401
    right = {"Authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{server[0]}/v1/models", headers=right).status_code == 200
    foreign = right | {"Origin": "http://elsewhere.example"}
    assert httpx.get(f"{server[0]}/v1/models", headers=foreign).status_code == 403


def test_votes_are_comparisons(server, votes):
    body = {"messages": HELLO, "answers": ["bad", "good"], "better": 1}
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(f"{server[0]}/v1/votes", json=body, headers=headers).status_code == 200
    row = {"prompt": HELLO, "chosen": "good", "rejected": "bad"}
    named = body | {"models": ["ppo", "sft"]}
    assert httpx.post(f"{server[0]}/v1/votes", json=named, headers=headers).status_code == 200
    cut = body | {"stopped": [True, False]}  # the better one was cut, and does not end
    assert httpx.post(f"{server[0]}/v1/votes", json=cut, headers=headers).status_code == 200
    models = {"chosen_model": "sft", "rejected_model": "ppo"}
    ends = {"chosen_stopped": False, "rejected_stopped": True}
    assert votes == [row, row | models, row | ends]


def test_metrics_count(server):
    text = httpx.get(f"{server[0]}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    assert 'gpt_jax_tokens_total{model="tiny",what="drawn"}' in text
    assert 'gpt_jax_responses_total{route="/v1/models",status="401"}' in text


@pytest.mark.parametrize(
    "count", [120, pytest.param(1000, marks=pytest.mark.slow)], ids=["some", "a thousand"]
)
def test_many_at_once_get_each_their_own(server, model, count):
    """With cancellations and broken bodies between: no reply is wrong, mixed or lost."""
    url, worker = server
    rng = random.Random(0)
    words = ["hello", "you", "there", "how are", "are you there"]
    prompts = [" ".join(rng.choices(words, k=rng.randint(1, 5))) for _ in range(40)]
    expected = {
        prompt: one.text
        for prompt, one in zip(
            prompts, model.complete(prompts, Sampling(temperature=0.0, max_new_tokens=12)),
            strict=True,
        )
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {KEY}"}

    async def one(client: httpx.AsyncClient, number: int) -> str:
        kind, prompt = rng.random(), prompts[number % len(prompts)]
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 12,
        }
        if kind < 0.1:
            reply = await client.post("/v1/chat/completions", content=b'{"messages": ')
            assert reply.status_code == 400
            return "broken"
        if kind < 0.3:
            body["stream"] = True
            async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                async for _ in reply.aiter_lines():
                    if rng.random() < 0.5:
                        return "left"
            return "streamed"
        reply = await client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == expected[prompt]
        return "answered"

    async def all_of_them() -> list[str]:
        limits = httpx.Limits(max_connections=1000)
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=600, limits=limits
        ) as client:
            return await asyncio.gather(*(one(client, number) for number in range(count)))

    done = asyncio.run(all_of_them())
    assert len(done) == count and done.count("answered") > count / 2
    deadline = time.monotonic() + 60
    while (worker.jobs or worker.engine.busy) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.jobs and not worker.engine.busy
