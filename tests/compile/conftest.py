"""Compiling for chips that are not attached: needs the packages of the extra `plan`."""

import importlib.util

import jax
import pytest

PACKAGES = ("libtpu", "jax_cuda13_plugin")


@pytest.fixture(autouse=True)
def _compilers():
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f'{", ".join(missing)} missing: pip install -e ".[plan]"')


@pytest.fixture(autouse=True)
def _optimizations():
    """The programs of real chips are compiled as they would be there, unlike the other tests'."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
