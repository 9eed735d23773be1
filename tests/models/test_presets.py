"""Parameter counts of the published shapes; nothing is allocated."""

import pytest

from gpt_jax.models.presets import PRESETS, parameter_count
from gpt_jax.models.recipes import RECIPES

# Exact where the authors' weights are public.
EXACT = {
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
    "llama1_7b": 6_738_415_616,
    "llama1_13b": 13_015_864_320,
    "llama1_33b": 32_528_943_616,
    "llama1_65b": 65_285_660_672,
    "llama2_7b": 6_738_415_616,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3_405b": 405_853_388_800,
    "qwen3_0.6b": 596_049_920,
    "qwen3_1.7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    # Gemma 3 from 4B on is published with a vision tower and a projection, which are not in here:
    # 4,300,079,472 - 416,866,032 - 2,950,272, and likewise for the others.
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "gemma3_4b": 3_880_263_168,
    "gemma3_12b": 11_766_034_176,
    "gemma3_27b": 27_009_346_304,
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


def test_recipes_are_those_of_the_papers_tables():
    """GPT-3's table 2.1 and LLaMA's table 2, a row of each; the others follow one function."""
    assert {name for name in PRESETS if name.startswith(("gpt", "llama1"))} == set(RECIPES)
    small, large = RECIPES["gpt3_125m"], RECIPES["gpt3_175b"]
    assert (small.learning_rate, small.batch_tokens, small.context) == (6e-4, 500_000, 2048)
    assert (large.learning_rate, large.batch_tokens) == (0.6e-4, 3_200_000)
    assert (small.batch_rows, large.batch_rows) == (256, 1536)  # 0.5M and 3.2M tokens, rounded
    steps = [small.steps(n) for n in (small.total_tokens, small.warmup_tokens, small.decay_tokens)]
    assert steps == [572_205, 715, 495_911]
    llama = RECIPES["llama1_65b"]
    assert (llama.learning_rate, llama.total_tokens) == (1.5e-4, 14 * 10**11)
    for name, recipe in RECIPES.items():
        assert recipe.context == PRESETS[name].context_length
        assert recipe.warmup_tokens < recipe.decay_tokens <= recipe.total_tokens
