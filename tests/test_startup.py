"""A command starts at once: what it imports, when it says its first word, how it leaves a pipe."""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}

# Each takes a tenth of a second or more, and is imported by the function that needs it.
HEAVY = [
    "apache_beam",
    "datasets",
    "jax.experimental.mosaic",
    "jax.experimental.pallas",
    "matplotlib",
    "orbax.checkpoint",
    "pyarrow",
    "safetensors",
    "scipy.stats",
    "sklearn",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
    "transformers",
    "wandb",
]
COMMANDS = [
    *("experiments.pretrain", "experiments.sft", "experiments.reward", "experiments.ppo"),
    *("experiments.label", "experiments.rlhf", "experiments.confidence_penalty"),
    *("experiments.dpo", "experiments.kto", "experiments.distill"),
    *("experiments.data", "experiments.tokenize", "experiments.train_tokenizer"),
    *("gpt_jax.chat", "gpt_jax.report.__main__"),
    *("tools.plan", "tools.weak_scaling", "tools.faults", "tools.benchmark_training"),
]
HELPED = ["experiments.sft", "experiments.plan", "gpt_jax.chat", "gpt_jax.report"]
HELPED += ["tools.benchmark_training"]  # argparse, which takes a closed pipe for read


def start(*arguments, **options) -> subprocess.Popen:
    """Python with these arguments."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
        **options,
    )


def processor_seconds(*arguments, until_first_line=False) -> float:
    """What a run takes, in seconds that other work on the machine does not stretch."""

    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    run = start(*arguments)
    if until_first_line:
        assert run.stdout.readline().startswith("sft: preset tiny, run folder nowhere")
        run.kill()
    run.communicate()
    assert until_first_line or run.returncode == 0
    return spent() - before


def test_no_command_imports_what_it_may_not_need():
    """Break it: import any of them at the top of a file."""
    code = f"import sys, {', '.join(COMMANDS)}; print(*sys.modules)"
    loaded, trouble = start("-c", code).communicate()
    assert "experiments.rlhf" in loaded.split(), trouble
    assert sorted(set(HEAVY) & set(loaded.split())) == []


def test_help_and_the_first_word_come_soon_after_jax_and_flax():
    """Rounds of all three, one after the other; medians of the rounds' own ratios."""
    ratios = []
    for _ in range(5):
        jax_and_flax = processor_seconds("-c", "import jax, flax")
        helped = processor_seconds("-m", "experiments.sft", "--help")
        nowhere = ("--run-dir=nowhere", "--init-from=nowhere")
        word = processor_seconds("-m", "experiments.sft", *nowhere, until_first_line=True)
        ratios.append((helped / jax_and_flax, word / jax_and_flax))
    assert statistics.median(helped for helped, _ in ratios) <= 1.5, ratios
    assert statistics.median(word for _, word in ratios) <= 1.5, ratios


def test_a_closed_pipe_ends_a_command_quietly():
    """As `--help | head -1` does. Break it: leave the flush to Python's exit."""
    runs = [start("-m", module, "--help") for module in HELPED]
    for run in runs:
        run.stdout.close()
    for module, run in zip(HELPED, runs, strict=True):
        assert run.stderr.read() == "" and run.wait() in (0, 141), module
