// The page: what is said, who answers, and which answer is better.
import { call, events } from "./server.js";
import { hide, make, show, spell } from "./words.js";

const $ = (id) => document.getElementById(id), main = document.querySelector("main");
const EXAMPLES = ["Hello! Who are you?", "What is 3 plus 4?", "Tell me something about a town."];
let turns = [];      // [{words, box, answers: [{model, text, whole, ...}], chosen}]
let running = null;  // an AbortController while answers come
let atEnd = true;    // of the conversation is what one reads
let known = { data: [], votes: false };  // what /v1/models said

const say = (text) => { $("status").textContent = text; };
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
const button = (text, keys, onclick) => {
  const made = make("button", "", text, { type: "button", onclick });
  if (keys) { made.title = keys; made.setAttribute("aria-keyshortcuts", keys.replace(" ", "+")); }
  return made;
};

async function listModels() {
  try { known = await (await call("v1/models")).json(); }
  catch (error) {
    $("empty").querySelector("p").replaceChildren(make("span", "error", sentence(error.message)));
    if (error.message.includes("API key")) settings(true, "key");
    return;
  }
  $("empty").querySelector("p").replaceChildren(...welcome);
  known.data = known.data.filter((one) => one.task !== "embedding");  // which make vectors and no text
  if (!known.data.length) $("empty").querySelector("p").textContent = "No model here writes text; ask for vectors at /v1/embeddings.";
  const names = known.data.map((one) => one.id);
  const fill = (select, some) => {
    const before = select.value;
    select.replaceChildren(...some.map(([value, text]) => make("option", "", text, { value })));
    if (some.some(([value]) => value === before)) select.value = before;
  };
  fill($("first"), names.map((name) => [name, name]));
  fill($("second"), [["", "nobody"], ...names.map((name) => [name, name])]);
  chosen();
}

function chosen() {
  const names = [$("first"), $("second")].map((one) => one.value).filter(Boolean);
  const rooms = known.data.filter((one) => names.includes(one.id)).map((one) => one.max_model_len ?? Infinity);
  const room = Math.min(...rooms);  // the tokens that all of them read
  $("max_tokens").max = Number.isFinite(room) ? room - 1 : "";
  if (Number($("max_tokens").value) >= room) $("max_tokens").value = Math.floor(room / 2);
  $("name").textContent = names.join(" and ");
  $("talk").classList.toggle("wide", $("second").value !== "");
}

async function ask(answer, number, messages, signal) {
  const began = performance.now(), value = (id) => $(id).value === "" ? undefined : Number($(id).value);
  const seed = value("seed");
  const body = JSON.stringify({
    model: answer.model, messages, stream: true, stream_options: { include_usage: true },
    logprobs: true, top_logprobs: 5, temperature: value("temperature"), top_p: value("top_p"),
    top_k: value("top_k"), max_tokens: value("max_tokens"), seed: seed === undefined ? seed : seed + number,
  });
  try {
    for await (const event of events(await call("v1/chat/completions", { method: "POST", body, signal }))) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      if (choice?.delta.content) {
        answer.text += choice.delta.content;
        answer.box.textContent = answer.text;
        follow();
      }
      if (choice?.logprobs) spell(answer.box, choice.logprobs.content);
      if (choice?.finish_reason) answer.reason = choice.finish_reason;
      if (event.usage) tell(answer, event.usage, performance.now() - began);
    }
    answer.whole = true;
  } catch (error) {
    const stopped = error.name === "AbortError";
    const note = make("span", stopped ? "" : "error", stopped ? "stopped" : sentence(error.message));
    if (!stopped) note.setAttribute("role", "alert");
    answer.foot.prepend(note);
    answer.failed = !stopped;
  }
  answer.box.classList.remove("waits");
  if (!answer.text && !answer.failed) answer.box.classList.add("nothing");
  if (!answer.text && !answer.failed) answer.box.textContent = "(no answer)";
}

function tell(answer, usage, milliseconds) {
  const speed = (1000 * usage.completion_tokens / milliseconds).toFixed(0);
  const notes = [`${usage.completion_tokens} tokens, ${speed} a second`];
  if (answer.reason === "length") notes.push("cut at the most new tokens");
  if (usage.left_out_turns) notes.push(`the ${usage.left_out_turns} oldest turns did not fit and were left out`);
  answer.foot.prepend(...notes.map((note) => make("span", "", note)));
}

function conversation() {
  const system = $("system").value.trim(), messages = system ? [{ role: "system", content: system }] : [];
  for (const { words, answers, chosen } of turns) {
    const text = answers[chosen ?? 0].text;
    if (text.trim()) messages.push({ role: "user", content: words }, { role: "assistant", content: text });
  }
  return messages;
}

async function turn(words) {
  if (turns.length && turns.at(-1).chosen === undefined) settle(turns.at(-1), 0);
  const messages = [...conversation(), { role: "user", content: words }];
  const names = [$("first").value, ...($("second").value ? [$("second").value] : [])];
  const pair = names.length === 2;
  if (pair && Math.random() < 0.5) names.reverse();  // nobody is named before the vote
  const box = make("article"), row = make("div", pair ? "answers pair" : "answers");
  const answers = names.map((model, index) => {
    const one = { model, text: "", card: make("section", "answer"), title: make("h3"),
      box: make("div", "text waits", "", { dir: "auto" }), foot: make("div", "foot") };
    one.title.textContent = pair ? `Answer ${index + 1}` : model;
    one.card.append(one.title, one.box, one.foot);
    return one;
  });
  row.append(...answers.map((one) => one.card));
  box.append(make("div", "user", words, { dir: "auto" }), row);
  const now = { words, messages, box, answers };
  turns.push(now);
  document.querySelectorAll(".again").forEach((old) => old.remove());
  $("empty").hidden = true;
  $("talk").append(box);
  atEnd = true;
  follow();
  const mine = running = new AbortController();
  buttons();
  say("Waiting for the answer.");
  await Promise.all(answers.map((one, index) => ask(one, index, messages, mine.signal)));
  if (running === mine) { running = null; buttons(); }
  if (!turns.includes(now)) return;
  for (const one of answers) {
    if (one.text) one.foot.append(button("Copy", "", () => navigator.clipboard.writeText(one.text).then(() => say("Copied."))));
  }
  answers.at(-1).foot.append(Object.assign(button("Ask again", "Alt R", again), { className: "again" }));
  if (pair) ballot(now); else now.chosen = 0;
  say(answers.map((one) => one.failed ? "" : `${one.title.textContent}: ${one.text || "no answer"}`).join("\n"));
  follow();
}

function ballot(now) {
  const [one, two] = now.answers, bar = now.bar = make("div", "vote");
  now.box.append(bar);
  const why = !one.whole || !two.whole ? "Only whole answers can be compared: Alt R asks again."
    : !one.text.trim() || !two.text.trim() ? "One has said nothing, so there is nothing to compare."
    : one.text === two.text ? "Both have said the same." : "";
  if (why) {
    settle(now, one.text.trim() ? 0 : 1);
    return bar.append(make("span", "", why));
  }
  bar.append(make("span", "", "Which one is better?"), button("Answer 1", "Alt 1", () => choose(0)),
    button("Answer 2", "Alt 2", () => choose(1)), button("Neither", "Alt 0", () => choose(null)));
  if (!known.votes) bar.append(make("span", "", "This server keeps no votes; start it with --votes FILE to keep them."));
}

// Goes on from one of the answers, and says who gave them.
function settle(now, index) {
  now.chosen = index;
  now.bar?.replaceChildren();
  for (const one of now.answers) one.title.textContent = one.model;
}

async function choose(index) {
  const now = turns.at(-1);
  if (running || !now || now.chosen !== undefined) return;
  settle(now, index ?? 0);
  if (index === null) return now.bar.append(make("span", "", "No vote. It goes on from the first one."));
  now.answers[index].card.classList.add("better");
  let note = make("span", "", `You preferred ${now.answers[index].model}.`);
  if (known.votes) {
    try {
      await call("v1/votes", { method: "POST", body: JSON.stringify({
        messages: now.messages, answers: now.answers.map((one) => one.text), better: index,
        models: now.answers.map((one) => one.model), stopped: now.answers.map((one) => one.reason !== "length"),
      }) });
      note.textContent += " Your vote is kept.";
    } catch (error) { note = make("span", "error", sentence(error.message)); }
  }
  now.bar.append(note);
  say(note.textContent);
  follow();
}

function takeBack() {
  const now = turns.pop();
  now?.box.remove();
  hide();
  $("empty").hidden = turns.length > 0;
  return now?.words;
}
function again() {
  if (!running && turns.length) turn(takeBack());
}
function fresh() {
  running?.abort();
  turns = [];
  $("talk").replaceChildren();
  $("empty").hidden = false;
  hide();
  $("words").focus();
}
function send() {
  const words = $("words").value.trim();
  if (!words || running) return;
  $("words").value = "";
  grow();
  turn(words);
}
function buttons() {
  const held = document.activeElement === $("send") || document.activeElement === $("stop");
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
  if (held) $("words").focus();
}
function grow() {
  $("words").style.height = "auto";
  $("words").style.height = `${Math.min($("words").scrollHeight, innerHeight * 0.4)}px`;
}
// Stays at the end of the conversation, unless somebody reads further up.
function follow() {
  if (atEnd) main.scrollTop = main.scrollHeight;
}
function settings(open, id = "temperature") {
  $("settings").hidden = !open;
  $("gear").setAttribute("aria-expanded", open);
  $(open ? id : "words").focus();
}
function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").querySelector("span").textContent = name === "dark" ? "Light" : "Dark";
}
function tint(on) {
  $("talk").classList.toggle("tinted", on);
  $("tint").setAttribute("aria-pressed", on);
}
function walkWords() {
  [...document.querySelectorAll(".text[tabindex]")].at(-1)?.focus();
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const switchTheme = () => {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  localStorage.setItem("theme", document.documentElement.dataset.theme);
};
const switchTint = () => tint($("tint").getAttribute("aria-pressed") !== "true");
const switchSettings = () => settings($("settings").hidden);
const KEYS = { KeyN: fresh, KeyR: again, KeyD: switchTheme, KeyS: switchSettings, KeyP: switchTint, KeyT: walkWords,
  Digit0: () => choose(null), Digit1: () => choose(0), Digit2: () => choose(1) };

$("form").onsubmit = (event) => { event.preventDefault(); send(); };
$("words").oninput = grow;
$("words").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  if (event.key === "ArrowUp" && !$("words").value && !running && turns.length) {
    event.preventDefault();
    $("words").value = takeBack();
    grow();
  }
};
$("stop").onclick = () => running?.abort();
$("new").onclick = fresh;
$("theme").onclick = switchTheme;
$("tint").onclick = switchTint;
$("gear").onclick = switchSettings;
$("key").onchange = listModels;
$("first").onchange = $("second").onchange = chosen;
for (const id of ["temperature", "top_p"]) {
  const write = () => { document.querySelector(`output[for=${id}]`).textContent = Number($(id).value).toFixed(2); };
  $(id).oninput = write;
  write();
}
document.onkeydown = (event) => {
  if (event.key === "Escape") {
    if (running) running.abort();
    else if (!$("word").hidden) hide();
    else if (!$("settings").hidden) settings(false);
    else $("words").focus();
  }
  if (!event.altKey || event.ctrlKey || event.metaKey || !KEYS[event.code]) return;
  event.preventDefault();
  KEYS[event.code]();
};
$("talk").onmouseover = (event) => { if (event.target.closest(".t")) show(event.target.closest(".t")); else hide(); };
$("talk").onmouseleave = hide;
main.onwheel = hide;
main.onscroll = () => { atEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 40; };
dark.onchange = () => { if (!localStorage.getItem("theme")) theme(dark.matches ? "dark" : "light"); };

const welcome = [...$("empty").querySelector("p").childNodes];
$("examples").replaceChildren(...EXAMPLES.map((text) => button(text, "", () => { if (!running) turn(text); })));
theme(localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light"));
tint(true);
listModels();
