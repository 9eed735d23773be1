"""The forms of Gao et al. 2023, and the KL of best-of-n."""

import numpy as np
import pytest

from gpt_jax.evaluate.overoptimization import best_of_kl, fit


@pytest.mark.parametrize("kind", ["best-of-n", "rl"])
def test_a_fit_finds_the_numbers_that_made_the_points(kind):
    d_P = np.linspace(0.3, 3.0, 8)
    bend_P = d_P if kind == "best-of-n" else np.log(d_P)
    found = fit(kind, d_P**2, d_P * (0.7 - 0.2 * bend_P))
    np.testing.assert_allclose(found[:3], [0.7, 0.2, 1.0], atol=1e-9)
    grid = np.linspace(0.01, 20, 200_001)
    values = grid * (0.7 - 0.2 * (grid if kind == "best-of-n" else np.log(grid)))
    assert found.peak == pytest.approx(min(grid[values.argmax()], 20), abs=1e-3) or found.peak > 20


def test_without_a_bend_there_is_no_peak_and_noise_is_not_explained():
    kls_P = np.array([-0.1, 0.1, 0.5, 1.0, 2.0])
    assert fit("best-of-n", kls_P, kls_P).peak is None
    assert fit("rl", kls_P, [9.0, 1.0, -1.0, 1.0, -1.0]).r_squared < 0.9
    assert fit("rl", [0.0, 1.0, 2.0], [0.0, 1.0, 1.0]) is None


def test_the_kl_of_best_of_n():
    """Two answers of probability a half: best-of-2 gives the better one three times in four."""
    rewards_AN, half_AN = np.array([[0.0], [1.0]]), np.log(np.full((2, 1), 0.5))
    wanted = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert best_of_kl(rewards_AN, half_AN, 2) == pytest.approx(wanted)
    assert best_of_kl(rewards_AN, half_AN, 1) == 0
    rng = np.random.default_rng(0)
    many_AN, rare_AN = rng.normal(size=(4000, 1)), np.full((4000, 1), -60.0)
    for n in (2, 8):
        bound = np.log(n) - (n - 1) / n
        assert best_of_kl(many_AN, rare_AN, n) == pytest.approx(bound, abs=0.01)
