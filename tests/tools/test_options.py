"""Every number that a tool takes has its range."""

import pytest

from gpt_jax.errors import UserError
from gpt_jax.ranges import ranges
from tests.test_ranges import numbers_of, owner
from tools import benchmark_training, faults, plan, weak_scaling

CONFIGS = [
    plan.parse(["--model", "gpt2"]),
    weak_scaling.Config(),
    faults.Config(),
    benchmark_training.Benchmark(),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__module__)
def test_every_number_has_a_range(config):
    """Break it: leave one out of any tool."""
    numbers = [(owner(config, path), path[-1]) for path, _ in numbers_of(config)]
    assert numbers
    assert {name for holder, name in numbers if name not in ranges(type(holder))} == set()


def test_a_number_out_of_its_range_is_one_sentence():
    for option in ("--rows=-1", "--accumulate=0", "--completions=1", "--tokens=0", "--mesh=fsdp=0"):
        with pytest.raises(UserError, match="but must be"):
            plan.parse(["--model", "gpt2", option])
