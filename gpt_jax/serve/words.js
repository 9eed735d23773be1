// How likely each word of an answer was: shown where one points, or walks with the arrow keys.
const card = document.getElementById("word");
const status = document.getElementById("status");
const about = new WeakMap();  // span -> the tokens that it was drawn as

const percent = (logprob) => {
  const share = 100 * Math.exp(logprob);
  return share >= 99.95 ? "100%" : share < 0.05 ? "<0.1%" : `${share.toFixed(1)}%`;
};
const visible = (text) => text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5") || "(nothing)";

export function make(tag, name = "", text = "", more = {}) {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return Object.assign(made, more);
}

// The answer's text as spans, one for each token, or for the tokens that make up one character.
export function spell(box, entries) {
  const shown = box.textContent, decoder = new TextDecoder(), groups = [];
  let open = [];
  for (const one of entries) {
    open.push(one);
    const text = decoder.decode(new Uint8Array(one.bytes), { stream: true });
    if (text) { groups.push({ text, tokens: open }); open = []; }
  }
  const whole = groups.map((group) => group.text).join(""), lead = whole.indexOf(shown);
  if (!shown || lead < 0) return;  // it is not spelt by these: better no likelihood than a wrong one
  let at = -lead;
  const spans = [];
  for (const { text, tokens } of groups) {
    const part = shown.slice(Math.max(at, 0), Math.max(at + text.length, 0));
    at += text.length;
    if (!part) continue;
    // A space before a word stays outside of what is tinted.
    const [space] = part.trim() ? part.match(/^\s*/) : [""], span = make("span", "t", part.slice(space.length));
    const logprob = tokens.reduce((sum, one) => sum + one.logprob, 0);
    span.style.setProperty("--odd", (1 - Math.exp(logprob)).toFixed(3));
    about.set(span, { logprob, first: tokens[0] });
    spans.push(space, span);
  }
  box.replaceChildren(...spans);
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Answer. The arrow keys walk over its words and say how likely each was.");
  box.onkeydown = (event) => walk(box, event);
  box.onblur = hide;
}

function walk(box, event) {
  const spans = [...box.children], here = spans.findIndex((span) => span.classList.contains("here"));
  const to = { ArrowRight: here + 1, ArrowLeft: here < 0 ? 0 : here - 1, Home: 0, End: spans.length - 1 }[event.key];
  if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const span = spans[Math.min(Math.max(to, 0), spans.length - 1)];
  show(span);
  span.scrollIntoView({ block: "nearest" });
  const { logprob, first } = about.get(span);
  const others = first.top_logprobs.filter((top) => top.token !== first.token);
  status.textContent = [`${visible(span.textContent.trim())}: ${percent(logprob)}`,
    ...others.slice(0, 2).map((top) => `${visible(top.token.trim())} ${percent(top.logprob)}`)].join(", ");
}

export function hide() {
  document.querySelectorAll(".t.here").forEach((span) => span.classList.remove("here"));
  card.hidden = true;
}

export function show(span) {
  hide();
  const { logprob, first } = about.get(span);
  span.classList.add("here");
  const title = make("b");
  title.append(make("span", "", visible(span.textContent.trim())), make("span", "", percent(logprob)));
  card.replaceChildren(title, ...first.top_logprobs.map((top) => {
    const row = make("div", top.token === first.token ? "row drawn" : "row"), bar = make("i");
    bar.style.width = `${100 * Math.exp(top.logprob)}%`;
    row.append(bar, make("span", "", visible(top.token)), make("span", "", percent(top.logprob)));
    return row;
  }));
  card.hidden = false;
  const at = span.getClientRects()[0] ?? span.getBoundingClientRect(), size = card.getBoundingClientRect();
  const below = at.bottom + 8 + size.height < innerHeight;
  card.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
  card.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - size.height - 8)}px`;
}
