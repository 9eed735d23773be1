"""Every number of every configuration has a range, and what is out of it ends in one sentence."""

import dataclasses
import math
import types
from typing import Annotated, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import (
    confidence_penalty,
    distill,
    dpo,
    grpo,
    kto,
    label,
    online_dpo,
    ppo,
    pretrain,
    reinforce,
    rejection,
    reward,
    rlhf,
    rloo,
    sentiment,
    sft,
    verifiable,
)
from gpt_jax.errors import UserError
from gpt_jax.ranges import Positive, Range, check_ranges, ranges
from gpt_jax.train import command
from gpt_jax.train.optim import OptimizerConfig

EXPERIMENTS = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        *(pretrain, sft, label, reward, ppo, rlhf, confidence_penalty),
        *(dpo, kto, distill),
        *(grpo, rloo, reinforce, rejection, online_dpo, verifiable, sentiment),
    )
}
# Integers and floats that programs trip over; None stands for what is no number at all.
NUMBERS = [-(10**30), -(2**31), -7, -1, 0, 1, 2, 3, 7, 2**31, 10**30]
FLOATS = [math.nan, math.inf, -math.inf, -1e308, -1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 1.5, 1e308]


def kinds(hint) -> set[type]:
    """The plain types that a hint allows."""
    if get_origin(hint) is Annotated:
        return kinds(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return set().union(*(kinds(part) for part in get_args(hint)))
    return {hint} if isinstance(hint, type) else set()


def numbers_of(config, path=()):
    """(path, type) of every number of a configuration, dataclasses within it included."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, allowed = getattr(config, field.name), kinds(hints[field.name])
        if dataclasses.is_dataclass(value):
            yield from numbers_of(value, (*path, field.name))
        elif allowed & {int, float}:
            yield (*path, field.name), float if float in allowed else int


def changed(config, path, value):
    """The configuration with one number replaced, checked as when it is made."""
    name, *rest = path
    inner = changed(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})


def owner(config, path):
    for name in path[:-1]:
        config = getattr(config, name)
    return config


ALL = [
    (name, path, kind)
    for name, module in EXPERIMENTS.items()
    for path, kind in numbers_of(module.presets["smoke"]())
]


def test_every_number_has_a_range():
    """Break it: leave one out of any configuration."""
    bare = {
        f"{type(owner(config, path)).__name__}.{path[-1]}"
        for name, path, _ in ALL
        for config in [EXPERIMENTS[name].presets["smoke"]()]
        if path[-1] not in ranges(type(owner(config, path)))
    }
    assert not bare


@settings(max_examples=1200, deadline=None, derandomize=True)
@given(st.sampled_from(ALL), st.sampled_from(NUMBERS), st.sampled_from(FLOATS))
def test_a_number_is_taken_or_refused_in_one_sentence(option, number, fraction):
    """Every numeric option of every experiment: a configuration, or a UserError that names it."""
    name, path, kind = option
    config = EXPERIMENTS[name].presets["smoke"]()
    value = fraction if kind is float else number
    allowed = ranges(type(owner(config, path)))[path[-1]]
    try:
        made = changed(config, path, value)
    except UserError as error:
        assert str(error).count("\n") == 0
        assert allowed.holds(value) or path[-1] in str(error)
    else:
        assert allowed.holds(value) and owner(made, path) is not None


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1e400", "abc", "", "9" * 5000])
@pytest.mark.parametrize("option", ["--sft.optimizer.learning-rate", "--sft.train.steps"])
def test_the_command_line_refuses_what_is_no_such_number(option, value, capsys):
    """As typed: an exit with code 2, or the sentence that makes one."""
    with pytest.raises((UserError, SystemExit)) as ended:
        command.parse(["--preset=smoke", f"{option}={value}"], sft.presets, "")
    assert ended.type is UserError or ended.value.code == 2
    capsys.readouterr()


@dataclasses.dataclass(frozen=True)
class Example:
    count: Positive = 1
    share: Annotated[float, Range(0.0, 1.0, open_low=True)] | None = None

    def __post_init__(self):
        check_ranges(self)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"count": 0}, "count is 0, but must be at least 1 and at most"),
        ({"share": 0.0}, "share is 0.0, but must be more than 0 and at most 1; change it"),
        ({"share": math.nan}, "share is nan"),
    ],
)
def test_the_sentence(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        Example(**fields)
    assert Example(share=1.0).share == 1.0


@pytest.mark.parametrize("value", [1e-300, 1e-45, 1e39, 1e300])
def test_what_float32_turns_into_another_number_is_none(value):
    """Break it: let `Range.holds` ask `math.isfinite` alone; an eps of 0 divides 0 by 0."""
    with pytest.raises(UserError, match=r"eps is .*e.*, but must be more than 0, also in float32"):
        OptimizerConfig(eps=value)
