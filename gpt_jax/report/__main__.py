"""Writes a run's page anew: `python -m gpt_jax.report runs/rlhf/NAME`."""

from pathlib import Path
from typing import Annotated

import tyro

from gpt_jax import terminal
from gpt_jax.report import write_report


def main(run_folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Writes report.html from what the run folder holds, a run that is still going included.

    Args:
        run_folder: a folder under runs/, of a whole run or of one stage.
    """
    print(write_report(run_folder))


if __name__ == "__main__":
    with terminal.ending_plainly():
        tyro.cli(main, prog="python -m gpt_jax.report")
