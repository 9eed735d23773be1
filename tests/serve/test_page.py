"""The page, driven in a browser from the keyboard alone, in both themes, narrow and wide."""

import contextlib
import json
import socket
import threading
import time

import jax
import pytest

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from gpt_jax.data.config import DataConfig  # noqa: E402
from gpt_jax.evaluate.elo import read_votes  # noqa: E402
from gpt_jax.generate.embeddings import Embedder  # noqa: E402
from gpt_jax.generate.engine import Engine  # noqa: E402
from gpt_jax.generate.sampling import Sampling  # noqa: E402
from gpt_jax.generate.text import TextModel  # noqa: E402
from gpt_jax.models import init  # noqa: E402
from gpt_jax.models.config import ModelConfig  # noqa: E402
from gpt_jax.serve.__main__ import keep  # noqa: E402
from gpt_jax.serve.app import make_app  # noqa: E402
from gpt_jax.serve.service import Served  # noqa: E402
from gpt_jax.serve.worker import Worker  # noqa: E402
from gpt_jax.text.tokenizer import Tokenizer  # noqa: E402
from tests.chromium import tab, wait_for  # noqa: E402

IDLE = "document.getElementById('stop').hidden"
FOCUS = "document.activeElement.id"
TEXTS = "[...document.querySelectorAll('.text')].map((one) => one.textContent)"
TITLES = "[...document.querySelectorAll('.answer h3')].map((one) => one.textContent)"
SEEN = "document.querySelector('main').innerText"

# The lowest contrast (WCAG 2.2, 1.4.3) of any text that is seen, and the text.
CONTRAST = """(() => {
  const number = (text) => {
    const found = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    const scale = text.startsWith("color(") ? 255 : 1;
    return [...found.slice(0, 3).map((x) => x * scale), found[3] ?? 1];
  };
  const over = (top, under) => top.slice(0, 3).map((x, i) => x * top[3] + under[i] * (1 - top[3]));
  const linear = (x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (element) => element === null ? [255, 255, 255]
    : over(number(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  let worst = [21, ""];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || element.closest("[hidden], option") || !element.getClientRects().length) continue;
    const back = behind(element), ink = over(number(getComputedStyle(element).color), back);
    const [high, low] = [light(ink), light(back)].sort((a, b) => b - a);
    if ((high + 0.05) / (low + 0.05) < worst[0]) worst = [(high + 0.05) / (low + 0.05), text];
  }
  return worst;
})()"""

# What sticks out at the sides, has no name, or is there twice.
FAULTS = """(() => {
  const inside = (one) => {
    const { left, right } = one.getBoundingClientRect();
    return left >= -0.5 && right <= innerWidth + 0.5;
  };
  const all = [...document.querySelectorAll("body *")];
  const seen = all.filter((one) => one.getClientRects().length);
  const named = (one) => one.getAttribute("aria-label") || one.textContent.trim()
    || one.labels?.[0]?.textContent.trim();
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  return [
    ...seen.filter((one) => !inside(one)),
    ...seen.filter((one) => one.matches("button, input, select, textarea") && !named(one)),
  ].map((one) => one.outerHTML).concat(ids.filter((id, place) => ids.indexOf(id) < place));
})()"""


@pytest.fixture(scope="module")
def slow():
    return threading.Event()


@pytest.fixture(scope="module")
def place(tmp_path_factory, slow):
    """(URL, the votes' file) of a server with two tiny models, the workers of which can be slow."""
    folder = tmp_path_factory.mktemp("page")
    tokenizer = Tokenizer.train(["hello there, how are you?"] * 4, 280)
    config = ModelConfig(vocab_size=288, context_length=320, width=16, layers=1, heads=2)
    workers = {}
    for seed, name in enumerate(("left", "right")):
        params = jax.tree.map(lambda x: 3.0 * x, init(config, jax.random.key(seed)))
        engine = Engine(TextModel(config, params, tokenizer), slots=2, steps=4, top=5)
        engine.complete(["hello"], Sampling(max_new_tokens=2))
        advance = engine.advance
        engine.advance = lambda advance=advance: (slow.is_set() and time.sleep(0.05)) or advance()
        workers[name] = Worker(engine)
    votes, lock = folder / "votes.jsonl", threading.Lock()
    served = {name: Served(worker) for name, worker in workers.items()}
    silent = Embedder(list, list, width=4, longest=8, pad_id=0)  # nobody talks to it
    app = make_app(served, None, lambda row: keep(votes, lock, row), {"silent": silent})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    wait_for(lambda: running.started)
    yield f"http://127.0.0.1:{port}/", votes
    running.should_exit = True
    thread.join()
    for worker in workers.values():
        worker.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with tab(tmp_path_factory.mktemp("browser")) as one:
        yield one


@contextlib.contextmanager
def set_for(event):
    event.set()
    yield
    event.clear()


def go_to(browser, name):
    """Moves the focus back, as Shift+Tab does, until it is there."""
    for _ in range(40):
        if browser.value(FOCUS) == name:
            return
        browser.press("Shift+Tab")
    raise AssertionError(f"the keyboard does not reach {name}")


def good(browser):
    """Nothing sticks out or has no name, and all text can be read."""
    assert browser.value(FAULTS) == []
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    ratio, text = browser.value(CONTRAST)
    assert ratio >= 4.5, text


@pytest.mark.parametrize("width", [390, 1280], ids=["narrow", "wide"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_of_it_from_the_keyboard(browser, place, slow, width, dark):
    """Break it: bind Alt+2 to the first answer, or let `again` keep the old one."""
    url, votes = place
    browser.show(width, 800, dark)
    browser.open(url)
    wait_for(lambda: browser.value("document.getElementById('first').options.length === 2"))
    assert browser.value("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert browser.value(FOCUS) == "words" and "Talk to left" in browser.value(SEEN)
    good(browser)

    browser.press("Alt+s")
    assert browser.value(FOCUS) == "temperature"
    browser.press("End")  # 2: a model of random numbers does not stop early then
    go_to(browser, "temperature")
    browser.press("Tab", "Tab", "Tab", "Tab", "7")  # the seed
    assert browser.value("document.getElementById('seed').value") == "7"
    good(browser)
    browser.press("Escape")
    assert browser.value(FOCUS) == "words" and browser.value(
        "document.getElementById('settings').hidden"
    )

    with set_for(slow):
        browser.press(*"hello", "Enter")
        wait_for(lambda: len("".join(browser.value(TEXTS))) > 20)
        assert not browser.value(IDLE)
        browser.press("Escape")
        wait_for(lambda: browser.value(IDLE))
    (half,) = browser.value(TEXTS)
    assert "stopped" in browser.value(SEEN)
    browser.press("Alt+r")
    wait_for(lambda: browser.value(IDLE) and "tokens" in browser.value(SEEN))
    (whole,) = browser.value(TEXTS)
    # By the same seed the answer is the same, and this time it is there to its end.
    assert (
        whole.startswith(half) and len(whole) > len(half) and "stopped" not in browser.value(SEEN)
    )
    assert browser.value(TITLES) == ["left"]

    browser.press("Alt+t", "ArrowRight", "ArrowRight")
    assert browser.value("document.querySelectorAll('#word .row').length") >= 5
    assert "%" in browser.value("document.getElementById('status').textContent")
    assert browser.value("document.querySelectorAll('.t.here').length") == 1
    good(browser)
    browser.press("Escape")
    assert browser.value("document.getElementById('word').hidden")

    go_to(browser, "second")
    browser.press("ArrowDown", "ArrowDown")
    assert browser.value("document.getElementById('second').value") == "right"
    browser.press("Escape", *"who are you", "Enter")
    wait_for(lambda: browser.value(IDLE) and "Which one is better?" in browser.value(SEEN))
    assert browser.value(TITLES) == ["left", "Answer 1", "Answer 2"], (
        "nobody is named before the vote"
    )
    good(browser)
    before = len(votes.read_text().splitlines()) if votes.exists() else 0
    browser.press("Alt+2")
    wait_for(lambda: "Your vote is kept." in browser.value(SEEN))
    good(browser)
    _, one, two = browser.value(TEXTS)
    _, first, second = browser.value(TITLES)
    assert {first, second} == {"left", "right"}
    browser.press("Alt+1")  # one vote is all that there is
    row = json.loads(votes.read_text().splitlines()[before])
    assert (row["chosen"], row["rejected"], row["chosen_model"]) == (two, one, second)
    read = DataConfig(comparisons=str(votes)).read("comparisons", "train")
    assert len(read) == before + 1 == len(read_votes(votes))
    assert read[before]["completions"] == [two, one]
    assert [turn["content"] for turn in read[before]["prompt"]] == ["hello", whole, "who are you"]
    assert read[before]["stopped"] == [row["chosen_stopped"], row["rejected_stopped"]]

    browser.press("ArrowUp")  # takes the turn back to be said in other words
    assert browser.value("document.getElementById('words').value") == "who are you"
    assert browser.value(TITLES) == ["left"]
    browser.press("Alt+d")
    assert browser.value("document.documentElement.dataset.theme") == ("light" if dark else "dark")
    good(browser)
    browser.value("localStorage.clear()")
    browser.press("Alt+n")
    assert browser.value(TEXTS) == [] and "Talk to left and right" in browser.value(SEEN)


SAID = [
    "<script>window.bad = 1</script><img src=x onerror='window.bad = 1'>",
    "**bold** `code`\n# no heading\n| a | b |",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\U0001f600",
    "x" * 3000,
]

# A server that says SAID, each byte being a token of its own, or all of a long text one.
ANSWERS = """window.fetch = async (path, options) => {
  const models = JSON.stringify({ data: [{ id: "left" }], votes: true });
  if (!options.method) return new Response(models);
  const said = SAID, bytes = [...new TextEncoder().encode(" " + said)];
  const about = { token: "?", logprob: -0.5, top_logprobs: [{ token: "?", logprob: -0.5 }] };
  const parts = bytes.length > 400 ? [bytes] : bytes.map((one) => [one]);
  const content = parts.map((some) => ({ ...about, bytes: some }));
  const events = [
    { choices: [{ delta: { content: said }, finish_reason: null, logprobs: null }] },
    { choices: [{ delta: {}, finish_reason: "stop", logprobs: { content } }] },
    { choices: [], usage: { completion_tokens: 3, left_out_turns: 2 } },
  ].map((one) => JSON.stringify(one));
  return new Response([...events, "[DONE]"].map((one) => `data: ${one}\n\n`).join(""));
}"""


@pytest.mark.parametrize("said", SAID, ids=["script", "marks", "arabic", "chinese", "long"])
def test_whatever_is_said_is_text(browser, place, said):
    """Break it: set `innerHTML`, or take each token's bytes for letters."""
    browser.show(390, 800)
    browser.open(place[0])
    browser.value(ANSWERS.replace("SAID", json.dumps(said)) + "; 0")
    browser.press("h", "Enter")
    wait_for(lambda: browser.value(IDLE) and "tokens" in browser.value(SEEN))
    assert browser.value(TEXTS) == [said]
    assert browser.value(
        "window.bad === undefined && document.querySelectorAll('img').length === 0"
    )
    letters = browser.value("[...document.querySelectorAll('.t')].map((one) => one.textContent)")
    assert "".join(letters) == said.replace(" ", "") or said.startswith(("<", "*", "\u0645"))
    assert "2 oldest turns" in browser.value(SEEN)
    rtl = browser.value("getComputedStyle(document.querySelector('.text')).direction")
    assert rtl == ("rtl" if "\u0628" in said else "ltr")
    good(browser)


FAILURES = [
    ("throw new TypeError('Failed to fetch')", "The server does not answer; is it still running?"),
    (
        'return new Response(\'{"error": {"message": "top_p is 3"}}\', { status: 400 })',
        "Top_p is 3.",
    ),
    ("return new Response('<html>', { status: 502 })", "The server answered 502."),
    ("return new Response('data: {\"choices\": []}\\n\\n')", "The server went away in the middle"),
    ('return new Response(\'data: {"error": {"message": "it broke"}}\\n\\n\')', "It broke."),
]


@pytest.mark.parametrize("fails, sentence", FAILURES)
def test_what_goes_wrong_is_one_sentence_and_can_be_asked_again(browser, place, fails, sentence):
    browser.show(390, 800)
    browser.open(place[0])
    wait_for(lambda: browser.value("document.getElementById('first').options.length === 2"))
    browser.value(f"window.before = fetch; window.fetch = async () => {{ {fails} }}; 0")
    browser.press("h", "i", "Enter")
    alerts = "[...document.querySelectorAll('[role=alert]')].map((one) => one.textContent)"
    wait_for(lambda: len(browser.value(alerts)) == 1)
    assert browser.value(alerts)[0].startswith(sentence)
    good(browser)
    browser.value("window.fetch = before; 0")
    browser.press("Alt+r")
    wait_for(lambda: browser.value(IDLE) and "tokens" in browser.value(SEEN))
    assert browser.value(alerts) == []


LOCKED = """window.fetch = ((before) => async (path, options) =>
  options.headers.Authorization === "Bearer key" ? before(path, options)
    : new Response('{"error": {"message": "the API key is missing or wrong"}}', { status: 401 })
)(window.fetch)"""


def test_a_key_is_asked_for_and_then_the_models_are_there(browser, place):
    browser.show(390, 800)
    browser.open(place[0])
    wait_for(lambda: browser.value("document.getElementById('first').options.length === 2"))
    browser.value(LOCKED + "; document.getElementById('key').onchange(); 0")
    wait_for(lambda: browser.value(FOCUS) == "key")
    assert "The API key is missing or wrong." in browser.value(SEEN)
    good(browser)
    browser.press(*"key", "Tab")
    wait_for(lambda: "Write below" in browser.value(SEEN))


def test_nothing_comes_from_elsewhere(browser, place):
    browser.open(place[0])
    loaded = browser.value("performance.getEntriesByType('resource').map((one) => one.name)")
    assert len(loaded) >= 4 and all(one.startswith(place[0]) for one in loaded)
    # The policy lets no script in that the server did not send.
    script = "Object.assign(document.createElement('script'), { text: 'window.bad = 1' })"
    browser.value(f"document.body.append({script})")
    assert browser.value("window.bad === undefined")
