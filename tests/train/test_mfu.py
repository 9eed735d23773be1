"""The share of the devices' peak that training reaches."""

import pytest

from gpt_jax.chips import CHIPS
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.train import gradient


def test_mfu_is_the_formulas_flops_over_the_peak(monkeypatch):
    mesh = make_mesh(MeshConfig())
    values = {"loss": 0.0, "seconds_per_step": 2.0}
    assert gradient.language_metrics(1.0, mesh)(values) == {"perplexity": 1.0}  # an unknown chip

    monkeypatch.setattr(gradient, "chip_of", lambda kind: CHIPS["v5e"])
    half = 0.5 * 2.0 * mesh.size * 197e12
    assert gradient.language_metrics(half, mesh)(values)["mfu"] == pytest.approx(0.5)
