"""What a run leaves for people to read: plots, tables, samples and one page with all of them."""

from gpt_jax.report.breakdown import markdown_table, results_table
from gpt_jax.report.page import write_report
from gpt_jax.report.publish import publish
from gpt_jax.report.samples import write_samples
from gpt_jax.report.verdict import run_verdict

__all__ = [
    "markdown_table",
    "publish",
    "results_table",
    "run_verdict",
    "write_report",
    "write_samples",
]
