"""Parameter counts of the published shapes; nothing is allocated."""

import pytest

from gpt_jax.models.presets import PRESETS, parameter_count

# Exact where the authors' weights are public.
EXACT = {
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
    "llama2_7b": 6_738_415_616,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3_405b": 405_853_388_800,
}
GPT3_MILLIONS = {
    "gpt3_125m": 125,
    "gpt3_350m": 350,
    "gpt3_760m": 760,
    "gpt3_1.3b": 1_300,
    "gpt3_2.7b": 2_700,
    "gpt3_6.7b": 6_700,
    "gpt3_13b": 13_000,
    "gpt3_175b": 175_000,
}


@pytest.mark.parametrize("name", EXACT)
def test_counts_equal_the_published_weights(name):
    assert parameter_count(PRESETS[name]) == EXACT[name]


@pytest.mark.parametrize("name", GPT3_MILLIONS)
def test_gpt3_counts_round_to_the_published_ones(name):
    assert parameter_count(PRESETS[name]) == pytest.approx(GPT3_MILLIONS[name] * 1e6, rel=0.02)


def test_every_preset_is_covered():
    assert {*EXACT, *GPT3_MILLIONS, "tiny"} == set(PRESETS)
