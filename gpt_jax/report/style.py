"""The colours of the plots, and the page's style sheet: light and dark, wide and narrow, paper."""

# Okabe and Ito's colours, which every common kind of colour-blindness can tell apart.
BLUE, ORANGE, GREEN, PINK = "#0f86c9", "#e69f00", "#009e73", "#cc79a7"
GREY, SLATE = "#8b929c", "#6b7380"

CSS = """
:root {
  color-scheme: light dark;
  --ink: #1d2129; --soft: #5b6472; --paper: #ffffff; --card: #f6f7f9; --line: #e2e5ea;
  --accent: #0f766e; --best: #d8f3ea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e7e9ee; --soft: #9aa3b2; --paper: #14171c; --card: #1c2027; --line: #303641;
    --accent: #4fd1b5; --best: #173b33;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 4rem; max-width: 68rem;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  color: var(--ink); background: var(--paper); overflow-wrap: break-word;
}
h1 { margin: 0; font-size: 0.95rem; font-weight: 600; color: var(--accent); }
h2 { margin: 3.2rem 0 0.4rem; font-size: 1.35rem; line-height: 1.3; }
h3 { margin: 0 0 0.1rem; font-size: 1.05rem; }
p { margin: 0.3rem 0 1rem; }
.verdict {
  margin: 0.6rem 0 0.9rem; font-size: clamp(1.3rem, 3.2vw, 1.9rem); line-height: 1.3;
  font-weight: 650; letter-spacing: -0.01em; text-wrap: balance;
}
.numbers { display: block; font: 400 0.6em/1.5 system-ui, sans-serif; letter-spacing: 0; }
.soft, small, figcaption { color: var(--soft); }
small { font-size: 0.82em; white-space: nowrap; }
.note {
  padding: 0.7rem 1rem; border-left: 3px solid var(--line); color: var(--soft);
  background: var(--card);
}
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { font-size: 0.82rem; font-weight: 600; color: var(--soft); text-align: right; }
th, td { padding: 0.55rem 0.6rem; vertical-align: baseline; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; }
td { text-align: right; }
td small { display: block; }
th:first-child, td:first-child, .samples th, .samples td { text-align: left; }
td:first-child { font-weight: 600; white-space: nowrap; }
td.best { font-weight: 700; background: var(--best); }
.dot {
  display: inline-block; width: 0.65em; height: 0.65em; margin-right: 0.5em; border-radius: 50%;
}
.samples { table-layout: fixed; font-size: 0.9rem; }
.samples td { vertical-align: top; white-space: pre-wrap; border-left: 1px solid var(--line); }
.samples td:first-child { white-space: pre-wrap; border-left: 0; }
.samples .empty { color: var(--soft); font-style: italic; }
.pair, .charts, .stages { display: grid; gap: 1.2rem; }
.pair, .stages { grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
.pair { margin-top: 1.5rem; }
.behind { margin-top: 2.4rem; columns: 2 25rem; column-gap: 1.2rem; font-size: 0.9rem; }
.behind > section { break-inside: avoid; padding-bottom: 2rem; }
.behind .soft::first-letter { text-transform: uppercase; }
.stages > .many { grid-column: 1 / -1; }
.stage > p { margin-bottom: 0.6rem; font-size: 0.9rem; }
.stages { row-gap: 2.4rem; margin-top: 1.2rem; }
figure {
  margin: 0; padding: 0.9rem 1rem 0.7rem; background: var(--card); border-radius: 10px;
}
figcaption { margin-bottom: 0.4rem; font-size: 0.9rem; font-weight: 600; }
figure svg { display: block; margin: 0 auto; }
pre {
  margin: 0.6rem 0; padding: 0.9rem 1rem; overflow-x: auto; font-size: 0.85rem; line-height: 1.5;
  background: var(--card); border-radius: 10px;
}
pre.command { white-space: pre-wrap; }
summary { cursor: pointer; font-weight: 600; }
footer { margin-top: 3rem; font-size: 0.85rem; color: var(--soft); }
@media (max-width: 44rem) {
  body { padding: 1.6rem 1rem 3rem; }
  figure { padding: 0.7rem 0.4rem 0.4rem; }
  figcaption { padding-left: 0.4rem; }
  table, tbody, tr, td { display: block; }
  thead { display: none; }
  tr { margin: 0.8rem 0; padding: 0.4rem 0.8rem; background: var(--card); border-radius: 10px; }
  td, td:first-child {
    display: flex; gap: 1rem; justify-content: space-between; padding: 0.4rem 0;
    white-space: normal;
  }
  td::before { content: attr(data-label); flex: none; color: var(--soft); font-weight: 400; }
  td:first-child::before { content: none; }
  tbody td:last-child { border-bottom: 0; }
  td.best { background: none; color: var(--accent); }
  td small { display: inline; }
  td:first-child { display: block; }
  .results .value { text-align: right; }
  .samples { table-layout: auto; }
  .samples td { display: block; border-left: 0; white-space: pre-wrap; }
  .samples td::before { display: block; font: 600 0.82em system-ui, sans-serif; }
}
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --card: #fff; --line: #bbb; --best: #eee; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  figure { border: 1px solid var(--line); }
  figure, tr, .stage { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""
