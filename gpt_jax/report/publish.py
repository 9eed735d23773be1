"""The end of a whole run: its results as a file, a page, samples and a table in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import rich

from gpt_jax import files
from gpt_jax.report.breakdown import results_table
from gpt_jax.report.page import write_report
from gpt_jax.report.samples import write_samples
from gpt_jax.report.verdict import run_verdict
from gpt_jax.seeds import folder_of


def publish(folder: Path, results: dict) -> None:
    """Writes `results.json`, the samples and the report, and prints the table and the verdict.

    Args:
      folder: of the run.
      results: what `results.json` is to hold.
    """
    files.write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_samples(folder, results["samples"])
    write_report(folder)
    rich.print(results_table(results))
    print(run_verdict(results))
    for entry in results["left_out"]:
        print(f"evaluate: {entry['count']:,} {entry['what']}")
    served = folder_of(folder, results["seed"]) if "seeds" in results else folder
    print(f"{folder}/report.html has the plots; python -m gpt_jax.chat {served} talks to it")
