"""`report.html`: one self-contained page for a run, with no script and nothing to fetch.

It is made from whatever the run folder holds, so it can be written after every stage; a part that
is not there yet leaves a note in its place. All text from the run is escaped.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from gpt_jax.errors import UserError
from gpt_jax.files import read_json, write_text
from gpt_jax.machine import in_words
from gpt_jax.metrics import read_metrics
from gpt_jax.readable import clock
from gpt_jax.report import markup, plots
from gpt_jax.report.breakdown import results_tables, times
from gpt_jax.report.openings import by_opening, read_openings
from gpt_jax.report.stages import (
    STAGES,
    Rows,
    StageView,
    kind_of,
    stage_verdict,
    stages_of,
    view_of,
    view_of_stage,
)
from gpt_jax.report.table import score_name
from gpt_jax.report.verdict import run_verdict


def write_report(run_folder: str | Path) -> Path:
    """Writes `run_folder/report.html` and returns its path.

    Args:
        run_folder: a whole run (with pretrain/, sft/, reward/, ppo/ inside), or one stage's folder.

    Raises:
        UserError: there is no such folder, or one of its files is damaged.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run folder; give one under runs/.")
    page = folder / "report.html"
    write_text(page, _page(folder))
    return page


def _page(folder: Path) -> str:
    results = _read_json(folder / "results.json")
    config = _read_json(folder / "config.json")
    rows = read_metrics(folder)
    evaluated = bool(results.get("models"))
    if rows:  # one stage's folder
        view = view_of(folder.resolve().name, config, rows)
        verdict = run_verdict(results) if evaluated else stage_verdict(view, rows)
        stages = [_stage(view, rows, stage_verdict(view, rows) if evaluated else "")]
    else:
        verdict = run_verdict(results)
        stages = _stages_of_run(folder, config, results.get("seconds", {}))
        results = {"experiment": "rlhf"} | results
    sections = [_results(results)] if evaluated or not rows else []
    sections += ["<h2>Training</h2>", '<div class="stages">', *stages, "</div>"]
    sections += [_openings(folder), _left_out(folder, results, config), _times(results)]
    if results.get("samples") or not rows:
        sections.append(_samples(results.get("samples", [])))
    title = f"gpt_jax {results.get('experiment', '')} {folder.resolve().name}"
    return markup.document(
        title,
        f'{_headline(verdict)}\n<p class="soft">{escape(_facts(results))}'
        f"{escape(_seeds(config))}</p>",
        f"{''.join(sections)}\n<h2>Run it again</h2>\n{_command(results, config, folder)}\n"
        f"{markup.configuration(config)}",
    )


def _headline(verdict: str) -> str:
    """What is claimed, large, and the numbers that it rests on."""
    claim, colon, numbers = escape(verdict).partition(": ")
    small = f'{colon}<span class="numbers">{numbers}</span>' if colon else ""
    return f'<p class="verdict">{claim}{small}</p>'


def _read_json(path: Path) -> dict:
    mend = "delete it and run the same command again."
    return read_json(path, mend) if path.exists() else {}


def _facts(results: Mapping) -> str:
    facts = [f"{name} {results[name]}" for name in ("preset", "seed", "device") if name in results]
    if results.get("seconds"):
        facts.append(f"{clock(sum(results['seconds'].values()))} in all")
    return " \N{MIDDLE DOT} ".join(facts)


def _seeds(config: Mapping) -> str:
    """How many seeds the run has, and how that is shown."""
    many, first = config.get("seeds", 1), config.get("seed", 0)
    if many == 1:
        return ""
    return (
        f"{many} seeds, {first} to {first + many - 1}: means over them, with 95% intervals "
        "(Student's t) as bands or behind \N{PLUS-MINUS SIGN}; every seed's own numbers are in the "
        "folder seeds."
    )


def _command(results: Mapping, config: Mapping, folder: Path) -> str:
    """The command as it was given, if the run noted it; else the one its facts amount to."""
    facts = config | results
    if "command" in facts:
        command = facts["command"]
    elif "experiment" in facts:
        parts = ["python", "-m", f"experiments.{facts['experiment']}"]
        for option in ("preset", "seed"):
            if option in facts:
                parts += [f"--{option}", str(facts[option])]
        command = shlex.join([*parts, "--run-dir", str(folder)])
    else:
        return markup.note("The run folder does not say which command made it.")
    return f'<pre class="command">{escape(command)}</pre>'


def _results(results: Mapping) -> str:
    models = results.get("models", [])
    if not models:
        return "<h2>Results</h2>" + markup.note("The models have not been evaluated yet.")
    score = score_name(models)
    judged = any(model.get("right") for model in models)
    explanation = (
        "In brackets: 95% interval. Shaded: the best of its column. The win rate is against SFT, "
        "a tie being half a win. KL is measured from the SFT model, per answer; entropy is per "
        "token, in nats. "
        + "Unknown: the answer says that it does not know, where that is not right. " * judged
        + {
            "gold": "The gold score measures an answer against the ground truth.",
            "reward": "The reward is the trained reward model's own score: PPO maximises it, "
            "so it is a poor judge of PPO.",
        }[score]
    )
    figures = [markup.figure(title, svg) for title, svg in plots.result_charts(results).items()]
    names = [model["name"] for model in models]
    first, *others = results_tables(results)
    more = [
        f'<section><h3>{escape(table.title)}</h3><p class="soft">{escape(table.note)}</p>'
        f"{markup.cells('more', table, names)}</section>"
        for table in others
    ]
    return (
        f'<h2>Results</h2><p class="soft">{explanation}</p>{markup.cells("results", first, names)}'
        f'<div class="pair">{"".join(figures)}</div><div class="behind">{"".join(more)}</div>'
    )


def _stages_of_run(folder: Path, config: Mapping, seconds: Mapping) -> list[str]:
    """The sections of the stages that the run has begun or, by its configuration, is to have."""
    planned = stages_of(config)
    extra = [name for name in STAGES if name not in planned and (folder / name).is_dir()]
    names = sorted([*planned, *extra], key=_place)
    return [_stage_of_run(folder / name, seconds.get(name)) for name in names]


def _place(name: str) -> tuple[str, int]:
    """Where a stage stands in a run: those of later rounds behind the others."""
    kind = kind_of(name)
    return name.removeprefix(kind), list(STAGES).index(kind)


def _stage_of_run(folder: Path, seconds: float | None) -> str:
    view, rows = view_of_stage(folder.name), read_metrics(folder)
    if not rows:
        nothing = markup.note("No metrics yet: this stage has not begun.")
        return f'<section class="stage"><h3>{escape(view.title)}</h3>{nothing}</section>'
    took = "" if seconds is None else f" It took {clock(seconds)}."
    return _stage(view, rows, stage_verdict(view, rows) + took)


def _stage(view: StageView, rows: Rows, sentence: str) -> str:
    charts = plots.stage_charts(rows, view.charts)
    size = "many" if len(charts) > 1 else "one"
    figures = "".join(markup.figure(chart, svg) for chart, svg in charts.items())
    return (
        f'<section class="stage {size}"><h3>{escape(view.title)}</h3>'
        f'<p class="soft">{escape(sentence)}</p><div class="charts">{figures}</div></section>'
    )


def _left_out(folder: Path, results: Mapping, config: Mapping) -> str:
    """What was dropped or cut, and how often, if the run or one of its stages has counted any.

    A count is an entry {"what": text, "count": number} of "left_out", in results.json or in a
    folder's data.json.
    """
    dash = "\N{EN DASH}"
    found = [("Evaluation", results), (dash, _read_json(folder / "data.json"))]
    for name in sorted({*STAGES, *stages_of(config)}, key=_place):
        found.append((view_of_stage(name).title, _read_json(folder / name / "data.json")))
    body = [
        f'<tr><td>{escape(entry["what"])}</td><td data-label="stage">{escape(title)}</td>'
        f'<td data-label="count">{entry["count"]:,}</td></tr>'
        for title, counts in found
        for entry in counts.get("left_out", [])
        if entry["count"]
    ]
    if not body:
        return ""
    return "<h2>What was left out</h2>" + markup.table("counts", ["what", "stage", "count"], body)


def _times(results: Mapping) -> str:
    """How long the stages took, on which machine, and how much memory, as far as it is known."""
    facts = [f"Peak memory {results['peak_memory_gb']} GB"] if "peak_memory_gb" in results else []
    facts += [in_words(results["machine"])] if "machine" in results else []
    table = markup.cells("counts", times(results)) if results.get("seconds") else ""
    about = f'<p class="soft">{escape("; ".join(facts))}.</p>' if facts else ""
    return f"<h2>Time and machine</h2>{about}{table}" if about or table else ""


def _samples(samples: Sequence[Mapping]) -> str:
    title = "<h2>The same prompts after every stage</h2>"
    if not samples:
        return title + markup.note("No samples yet.")
    return title + _answers(samples, markup.model)


def _openings(folder: Path) -> str:
    """How a model went on with the same openings while it learned, if a stage has written it."""
    rows = [row for at in (folder, folder / "pretrain") for row in read_openings(at)]
    if not rows:
        return ""
    explanation = (
        "How the model goes on with the same openings of held-out documents while it learns. A "
        "text ends where the model ends it, or after a few words."
    )
    return (
        f'<h2>Language appears</h2><p class="soft">{explanation}</p>'
        f"{_answers(by_opening(rows), escape)}"
    )


def _answers(samples: Sequence[Mapping], heading: Callable[[str], str]) -> str:
    """A row a prompt, a column for each name of its answers, which `heading` turns into HTML."""
    names = list(dict.fromkeys(name for sample in samples for name in sample["answers"]))
    body = []
    for sample in samples:
        row = [f"<td>{escape(sample['prompt'].strip())}</td>"]
        for name in names:
            answer = sample["answers"].get(name, "").strip()
            text, empty = (escape(answer), "") if answer else ("nothing", " class=empty")
            row.append(f'<td data-label="{escape(name)}"{empty}>{text}</td>')
        body.append(f"<tr>{''.join(row)}</tr>")
    return markup.table("samples", ["prompt", *map(heading, names)], body)
