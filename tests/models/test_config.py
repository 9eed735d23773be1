"""The model's configuration: what follows from other numbers follows after an override too."""

import dataclasses
import functools
import json
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from experiments import confidence_penalty, ppo, pretrain, reward, rlhf, sft
from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.presets import PRESETS, parameter_count
from gpt_jax.train import command

EXPERIMENTS = {
    module.__name__.rpartition(".")[2]: module
    for module in (pretrain, sft, reward, ppo, rlhf, confidence_penalty)
}
PRESETS_OF_ALL = [
    (name, preset) for name, module in EXPERIMENTS.items() for preset in module.presets
]


def configurations(config):
    """The configuration and every dataclass inside it."""
    yield config
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            yield from configurations(value)


@pytest.fixture
def written(monkeypatch):
    """Function: what the author of a preset wrote down for one of its dataclasses, {field: value}.

    Dataclasses that were made before the test (defaults of others) are compared with defaults.
    """
    calls, seen = {}, set()

    def record(kind):
        if kind in seen:
            return
        seen.add(kind)
        names, original = [field.name for field in dataclasses.fields(kind)], kind.__init__

        @functools.wraps(original)
        def recording(self, *args, **kwargs):
            original(self, *args, **kwargs)
            # The object is kept, so that its id stays its own.
            calls[id(self)] = self, dict(zip(names, args, strict=False)) | kwargs

        monkeypatch.setattr(kind, "__init__", recording)

    def look_up(config):
        if id(config) in calls:
            return calls[id(config)][1]
        return {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
            if getattr(config, field.name) != field.default
        }

    look_up.record = record
    return look_up


def other_values(hint, value):
    """Values that the field could be given instead."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if choice != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value, 3 * value, 1]
    return [value / 2] if isinstance(value, float) else []


def outcome(make):
    """What is made, or the sentence that refuses it."""
    try:
        return make()
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(("experiment", "preset"), PRESETS_OF_ALL)
def test_a_changed_field_equals_building_anew(experiment, preset, written):
    """Of every dataclass of every preset. Break it: store a derived value in `__post_init__`."""
    presets = EXPERIMENTS[experiment].presets
    for config in configurations(presets[preset]()):
        written.record(type(config))
    changes = 0
    for config in configurations(presets[preset]()):
        hints = get_type_hints(type(config))
        for field in dataclasses.fields(config):
            for value in other_values(hints[field.name], getattr(config, field.name)):
                change = {field.name: value}
                changed = outcome(lambda c=config, d=change: dataclasses.replace(c, **d))
                anew = outcome(lambda c=config, d=change: type(c)(**written(c) | d))
                assert changed == anew, (type(config).__name__, change)
                changes += 1
    assert changes > 20


@pytest.mark.parametrize(
    ("option", "preset", "expected"),
    [
        ("--pretrain.model.width=1024", "colab", dict(head_size=128, mlp_width=4096, kv_heads=8)),
        ("--pretrain.model.heads=8", "tiny", dict(head_size=12, kv_heads=8, mlp_width=256)),
        ("--pretrain.model.kv-heads=1", "tiny", dict(head_size=32, kv_heads=1)),
        ("--pretrain.model.head-size=16", "colab", dict(head_size=16, mlp_width=2048)),
        ("--pretrain.model.mlp-width=100", "colab", dict(head_size=64, mlp_width=100)),
    ],
)
def test_what_follows_is_computed_after_the_command_line(option, preset, expected):
    model = command.parse([f"--preset={preset}", option], rlhf.presets, "").pretrain.model
    assert expected.items() <= dataclasses.asdict(model.resolved()).items()


def test_a_wider_preset_has_the_parameters_of_a_wider_model():
    arguments = ["--preset=colab", "--pretrain.model.width=1024"]
    wider = command.parse(arguments, pretrain.presets, "").pretrain.model
    assert parameter_count(wider) == pytest.approx(102.1e6, rel=1e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_a_saved_configuration_comes_back_and_can_still_be_changed(name):
    """As `model.json` keeps it."""
    config = PRESETS[name]
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    assert ModelConfig(**saved) == config
    wider = dataclasses.replace(config, width=2 * config.width)
    assert ModelConfig(**saved | {"width": 2 * config.width}) == wider
    given = config.resolved()
    assert given.resolved() == given and None not in (given.kv_heads, given.mlp_width)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(dropout=1.0), "dropout is 1.0, but must be at least 0 and less than 1"),
        (dict(norm_eps=0.0), "norm_eps is 0.0, but must be more than 0"),
        (dict(kv_heads=0), "kv_heads is 0, but must be at least 1"),
        (dict(window=0), "window is 0"),
        (dict(rope_theta=float("nan")), "rope_theta is nan"),
        (dict(heads=3), "width 128 does not divide into 3 heads"),
    ],
)
def test_numbers_out_of_range_end_in_a_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        dataclasses.replace(PRESETS["tiny"], **change)


def test_a_context_of_one_token_has_nothing_to_predict():
    """Break it: give `context_length` the range of any positive number."""
    with pytest.raises(UserError, match="context_length is 1, but must be at least 2"):
        ModelConfig(vocab_size=300, context_length=1, width=8, layers=1, heads=1)
