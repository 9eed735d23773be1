"""What lies behind the scores: tables of one results.json, beside that of the models."""

from collections.abc import Mapping, Sequence

from gpt_jax.readable import clock
from gpt_jax.report.stages import view_of_stage
from gpt_jax.report.table import (
    COLUMNS,
    Column,
    Table,
    for_terminal,
    interval_text,
    models_table,
    plain,
    score_name,
    to_markdown,
)

_DASH = "\N{EN DASH}"
_PARTS = (  # of a difference from SFT; a field that no model has is left out
    Column("of it style", "style_vs_sft", digits=None),
    Column("of it substance", "substance_vs_sft", digits=None),
    Column("right answers (points)", "right_difference_vs_sft", scale=100, digits=1),
    Column("wins", "wins_vs_sft", scale=100, digits=0, unit="%"),
    Column("ties", "ties_vs_sft", scale=100, digits=0, unit="%"),
    Column("losses", "losses_vs_sft", scale=100, digits=0, unit="%"),
)


def results_tables(results: Mapping) -> list[Table]:
    """The models, and what is known beyond that: differences, kinds, the reward model."""
    tables = [models_table(results), against_sft(results), by_kind(results), reward_model(results)]
    return [table for table in tables if table.rows]


def results_table(results: Mapping):
    """The tables for the terminal: `rich.print(results_table(results))`."""
    narrow = models_table(results, [column for column in COLUMNS if not column.wide])
    return for_terminal([narrow, *results_tables(results)[1:]])


def markdown_table(results: Mapping) -> str:
    """The tables for a README, each but the first under its title."""
    parts = []
    for table in results_tables(results):
        note = f" ({table.note})" * bool(table.note)
        title = f"{table.title}{note}:\n\n" if table.title else ""
        parts.append(title + to_markdown(table))
    return "\n".join(parts)


def against_sft(results: Mapping) -> Table:
    """What best-of-n and PPO do otherwise than SFT, a row for each part of it."""
    found = results.get("models", [])
    models = [m for m in found if m["name"] != "base" and m.get("difference_vs_sft")]
    score = Column(f"{score_name(found)} score", "difference_vs_sft", digits=None)
    parts = [
        part for part in (score, *_PARTS) if any(m.get(part.field) is not None for m in models)
    ]
    return plain(
        ["difference from SFT", *(model["name"] for model in models)],
        [[part.heading, *(part.cell(model) for model in models)] for part in parts],
        "Against SFT",
        "prompt by prompt; style is what sets apart answers that are both right, both unknown or "
        "both wrong, substance the rest; two models differ where the interval excludes 0",
    )


def by_kind(results: Mapping) -> Table:
    """What the models answer to each kind of question, if the task has verdicts and kinds."""
    models = [m for m in results.get("models", []) if m.get("by_kind")]
    models = [m for m in models if not m["name"].startswith("best-of-")]
    kinds = models[0]["by_kind"] if models else {}
    rows, best = [], []
    for kind, first in kinds.items():
        found = [model["by_kind"][kind] for model in models]
        shares = [(one["right"][0], one["unknown"], one["wrong"]) for one in found]
        cells = [" / ".join(f"{100 * share:.0f}" for share in one) for one in shares]
        rights = {right for right, *_ in shares}
        rows.append([kind.replace("_", " "), f"{first['prompts']:,}", *cells])
        best.append([False, False, *(len(rights) > 1 and one[0] == max(rights) for one in shares)])
    return Table(
        ["question", "prompts", *(model["name"] for model in models)],
        rows,
        best,
        "By kind of question",
        "right / unknown / wrong, in percent of the answers",
    )


def reward_model(results: Mapping) -> Table:
    """How well the reward model ranks: what people ranked, and what the policies answer."""
    found = results.get("reward_model") or {}
    rows = []

    def add(name: str, accuracy: Sequence | float | None, pairs: int) -> None:
        if accuracy is not None:
            interval = accuracy if isinstance(accuracy, Sequence) else [accuracy, None, None]
            rows.append([name, interval_text(interval, 100, 1, "%"), f"{pairs:,}"])

    if found:
        for name, field in (
            ("held-out comparisons", "accuracy"),
            (f"{_DASH} by the longer answer", "longer_answer_baseline"),
            (f"{_DASH} by a bag of words", "bag_of_words_baseline"),
        ):
            add(name, found.get(field), found["pairs"])
    for model, own in found.get("own_samples", {}).items():
        add(f"answers of {model}", own.get("accuracy"), own.get("pairs", 0))
        pairs = own.get("right_over_wrong_pairs", 0)
        add(f"{_DASH} a right one over a wrong one", own.get("right_over_wrong"), pairs)
    return plain(["pairs of", "ranked right", "number"], rows, "The reward model")


def times(results: Mapping) -> Table:
    """How long each stage took, and its part of the whole."""
    seconds = results.get("seconds", {})
    titles = {name: view_of_stage(name).title for name in seconds if name != "evaluate"}
    titles["evaluate"] = "Evaluation"
    whole = sum(seconds.values())
    return plain(
        ["stage", "time", "share"],
        [
            [titles[name], clock(one), f"{100 * one / whole if whole else 0:.0f}%"]
            for name, one in seconds.items()
        ],
        "Time",
    )
