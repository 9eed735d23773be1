"""/v1/embeddings of a sentence encoder, asked by the official `openai` client."""

import asyncio
import base64
import random

import numpy as np
import pytest

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
testclient = pytest.importorskip("starlette.testclient")

from starlette.requests import ClientDisconnect  # noqa: E402

from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.generate.embeddings import open_encoder  # noqa: E402
from gpt_jax.serve.__main__ import Options, _given_name  # noqa: E402
from gpt_jax.serve.app import make_app  # noqa: E402
from gpt_jax.serve.turns import Turns  # noqa: E402
from tests import bert  # noqa: E402

URL = "/v1/embeddings"
TEXTS = ["cats", "a cat sees cats", "b"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return open_encoder(bert.write(tmp_path_factory.mktemp("bert") / "model"))


@pytest.fixture(scope="module")
def client(encoder):
    http = testclient.TestClient(make_app({}, encoders={"little": encoder}))
    return openai.OpenAI(
        base_url="http://testserver/v1", api_key="none", http_client=http, max_retries=0
    )


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_vectors_are_the_encoders(client, encoder, form):
    """By default OpenAI's client asks for base64."""
    more = {} if form is None else {"encoding_format": form}
    found = client.embeddings.create(model="little", input=TEXTS, **more)
    vectors = [item.embedding for item in found.data]
    if form == "base64":
        vectors = [np.frombuffer(base64.b64decode(v), "<f4") for v in vectors]
    np.testing.assert_array_equal(np.array(vectors, np.float32), encoder(TEXTS))
    assert [item.index for item in found.data] == [0, 1, 2] and found.model == "little"
    assert found.usage.prompt_tokens == sum(map(len, encoder.read(TEXTS).rows))
    assert not hasattr(found.usage, "cut_inputs")


def test_tokens_one_text_and_long_ones(client, encoder):
    rows = encoder.read(TEXTS).rows
    found = client.embeddings.create(model="little", input=rows, dimensions=16)
    np.testing.assert_array_equal([item.embedding for item in found.data], encoder(TEXTS))
    for one in ("cats", rows[0]):
        (item,) = client.embeddings.create(model="little", input=one).data
        np.testing.assert_allclose(item.embedding, encoder(TEXTS)[0], atol=1e-6)
    found = client.embeddings.create(model="little", input=["x " * 99, "b"])
    assert found.usage.cut_inputs == 1 and found.usage.prompt_tokens == 24 + 3


@pytest.mark.parametrize(
    "body, status, why",
    [
        ({"input": []}, 400, "input must be"),
        ({"input": ["a", ""]}, 400, "none empty"),
        ({"input": ["a", 3]}, 400, "input must be"),
        ({"input": [1, "a"]}, 400, "input must be"),
        ({"input": [True]}, 400, "input must be"),
        ({"input": {"a": 1}}, 400, "input must be of type"),
        ({"input": [999]}, 400, "text 1 must have tokens"),
        ({"input": [10**30]}, 400, "text 1 must have tokens"),
        ({"input": ["a"] * 2049}, 400, "2,048"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format is 'hex'"),
        ({"input": "a", "dimensions": 8}, 400, "vectors have 16"),
        ({"input": "a", "wishes": 1}, 400, "'wishes' is not supported"),
        ({"input": "a", "model": "other"}, 404, "there is no model 'other'; there is little"),
        ({}, 400, "input must be"),
    ],
)
def test_what_is_broken_is_answered_so(client, body, status, why):
    reply = client._client.post("/v1/embeddings", json=body)
    assert reply.status_code == status and why in reply.json()["error"]["message"]


def test_an_encoder_is_listed_and_writes_no_text(client):
    (one,) = client.models.list().data
    assert (one.id, one.task, one.max_model_len) == ("little", "embedding", 24)
    for model in ("little", ""):
        with pytest.raises(openai.NotFoundError, match="makes vectors and no text"):
            client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hello"}]
            )
    assert client._client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "count", [80, pytest.param(1000, marks=pytest.mark.slow)], ids=["some", "a thousand"]
)
def test_many_at_once_get_each_their_own(encoder, count):
    """With clients that go and broken bodies between; what is too much is told to come again."""
    app = make_app({}, encoders={"little": encoder})
    texts = [f"{'cat ' * (number % 7)}{number}" for number in range(20)]
    expected = encoder(texts)
    rng = random.Random(0)

    async def one(client, number):
        body, kind = {"input": texts[number % 20]}, rng.random()
        if kind < 0.1:
            return (await client.post(URL, json=body | {"input": [[]]})).status_code
        if kind < 0.2:
            gone = asyncio.ensure_future(client.post(URL, json=body))
            await asyncio.sleep(rng.random() / 10)
            return gone.cancel()
        reply = await client.post(URL, json=body)
        if reply.status_code == 200:
            (item,) = reply.json()["data"]
            np.testing.assert_allclose(item["embedding"], expected[number % 20], atol=1e-6)
        return reply.status_code

    async def everyone():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            seen = await asyncio.gather(*(one(client, number) for number in range(count)))
            last = await client.post(URL, json={"input": texts[0]})
            return [*seen, last.status_code]

    seen = asyncio.run(everyone())
    assert seen[-1] == 200 and set(seen) <= {200, 400, 503, True, False}
    assert seen.count(200) > min(count, 256) / 2 and (503 in seen) == (count > 300)
    assert app.state.turns._there == 0


def test_who_has_gone_is_not_computed_for(encoder):
    class Gone:
        async def is_disconnected(self):
            return True

    with pytest.raises(ClientDisconnect):
        asyncio.run(Turns().take(Gone(), pytest.fail))


def test_what_is_served_has_a_name():
    with pytest.raises(UserError, match="name a model that is to be served, or --embeddings"):
        Options()
    assert _given_name("mini=/x/model", {}) == ("mini", "/x/model")
    assert _given_name("/x/mini", {}) == ("mini", "/x/mini")
    assert _given_name("hf:org/mini", {}) == ("mini", "hf:org/mini")
    with pytest.raises(UserError, match="two models are called mini"):
        _given_name("mini=/x/model", {"mini": None})
