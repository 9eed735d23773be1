"""`plan.json`, and the same numbers as a terminal table and as a page."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gpt_jax.report.style import CSS

GIB = 2**30


def write_plan(folder: Path, plan: Mapping) -> None:
    """Writes `folder/plan.json` and `folder/plan.html`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
    (folder / "plan.html").write_text(_page(plan), encoding="utf-8")


def plan_table(plan: Mapping) -> Group:
    """For `rich.print`."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    headings, rows = program_rows(plan)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    lines = [Text(verdict(plan), style="bold"), Text(facts(plan), style="dim"), table]
    lines += [Text(f"{name}: {value}") for name, value in step_rows(plan)]
    lines += [Text(line) for line in tried_lines(plan)]
    return Group(*lines)


def verdict(plan: Mapping) -> str:
    """One sentence: it fits, how fast it can be, what it costs."""
    step = plan["step"]
    return (
        f"It fits, with {plan['hbm_fraction']:.0%} of the memory used, and is bound by "
        f"{step['bound']}: at best {step['mfu']:.0%} MFU, {_si(step['tokens_per_day'])} tokens a "
        f"day, {step['chip_hours']:,.0f} chip-hours for {_si(step['budget'])} tokens."
    )


def facts(plan: Mapping) -> str:
    work = plan["work"]
    mesh = ", ".join(f"{name}={size}" for name, size in plan["mesh"].items())
    return (
        f"{work['stage']} of {plan['parameters']:,} parameters on {plan['slice']} "
        f"({plan['devices']:,} devices of {plan['chip']['hbm_bytes'] / GIB:.1f} GiB); mesh {mesh}; "
        f"{work['rows']:,} rows of {work['length']:,} tokens, accumulate {work['accumulate']}, "
        f"{plan['model']['dtype']}, remat {plan['model']['remat']}"
    )


def program_rows(plan: Mapping) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, one column for each compiled program; all per device."""
    hbm_bytes = plan["chip"]["hbm_bytes"]
    quantities = {
        "arguments": lambda p: f"{p['argument_bytes'] / GIB:.2f} GiB",
        "temporaries": lambda p: f"{p['temporary_bytes'] / GIB:.2f} GiB",
        "HBM in use": lambda p: f"{p['hbm_bytes'] / hbm_bytes:.1%}",
        "FLOPs": lambda p: f"{p['flops'] / 1e12:,.2f} T",
        "HBM traffic": lambda p: f"{p['traffic_bytes'] / 1e9:,.2f} GB",
        "sent to others": lambda p: f"{sum(p['collective_bytes'].values()) / 1e9:,.2f} GB",
        "compute": lambda p: f"{p['seconds']['compute'] * 1e3:,.1f} ms",
        "HBM": lambda p: f"{p['seconds']['HBM'] * 1e3:,.1f} ms",
        "interconnect": lambda p: f"{p['seconds']['interconnect'] * 1e3:,.1f} ms",
        "bound by": lambda p: p["bound"],
        "runs per step": lambda p: str(p["runs"]),
    }
    programs = plan["programs"]
    headings = ["per device", *(program["name"] for program in programs)]
    return headings, [
        [name, *(show(program) for program in programs)] for name, show in quantities.items()
    ]


def step_rows(plan: Mapping) -> list[tuple[str, str]]:
    """What follows from the programs, in words."""
    step = plan["step"]
    sent: dict[str, float] = {}
    for program in plan["programs"]:
        for kind, size in program["collective_bytes"].items():
            sent[kind] = sent.get(kind, 0.0) + program["runs"] * size
    flops = sum(program["runs"] * program["flops"] for program in plan["programs"])
    ideal = step["mfu"] * step["seconds"] * plan["chip"]["flops"]
    return [
        (
            "step",
            f"{step['seconds']:.3g} s if all overlaps (MFU {step['mfu']:.1%}), "
            f"{step['seconds_in_turn']:.3g} s if nothing does (MFU {step['mfu_in_turn']:.1%})",
        ),
        (
            "FLOPs",
            f"{ideal / 1e12:,.1f} TFLOP per device by the closed formula, {flops / 1e12:,.1f} as "
            f"compiled: {flops / ideal:.2f} times (recomputation, hidden pairs, replicated work)",
        ),
        (
            "collectives",
            ", ".join(f"{kind} {size / 1e9:,.2f} GB" for kind, size in sent.items()) or "none",
        ),
        ("tokens", f"{step['tokens']:,} per step, {step['tokens_per_day']:,.0f} per day"),
        ("cost", f"{step['chip_hours']:,.0f} chip-hours for {step['budget']:,.0f} tokens"),
    ]


def tried_lines(plan: Mapping) -> list[str]:
    """What a search compiled, best first as ranked by tokens per day."""
    fitting = [row for row in plan.get("tried", []) if "trouble" not in row]
    others = [row for row in plan.get("tried", []) if "trouble" in row]
    fitting.sort(key=lambda row: row["seconds"])
    return [
        f"{row['options']}: {row['seconds']:.3g} s, MFU {row['mfu']:.1%}, "
        f"{row['hbm_fraction']:.0%} of the memory, bound by {row['bound']}"
        for row in fitting
    ] + [f"{row['options']}: {row['trouble']}" for row in others]


def _si(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _page(plan: Mapping) -> str:
    headings, rows = program_rows(plan)
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-label="{escape(heading)}">{escape(cell)}</td>'
            for heading, cell in zip(headings, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    words = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
        for name, value in step_rows(plan)
    )
    tried = "".join(f"<li>{escape(line)}</li>" for line in tried_lines(plan))
    tried = f"<h2>Tried</h2><ul>{tried}</ul>" if tried else ""
    parts = {name: plan[name] for name in ("model", "mesh", "work", "optimizer", "chip")}
    settings = escape(json.dumps(parts, indent=2))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>gpt_jax plan</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>gpt_jax plan</h1>
<p class="verdict">{escape(verdict(plan))}</p>
<p class="soft">{escape(facts(plan))}</p>
</header>
<main>
<h2>What one device does</h2>
<p class="soft">Memory is the compiler's own figure. Times are those of each resource at its peak;
the longest is the roofline. A program that runs 0 times a step is there for its memory only.</p>
<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>
<h2>One step</h2>
<table><tbody>{words}</tbody></table>
{tried}
<h2>Run it again</h2>
<pre class="command">{escape(plan["command"])}</pre>
<details><summary>Configuration</summary><pre>{settings}</pre></details>
</main>
</body>
</html>
"""
