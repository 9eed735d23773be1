"""Compiling for chips that are not attached: needs the packages of the extra `plan`."""

import importlib.util

import pytest

PACKAGES = ("libtpu", "jax_cuda13_plugin")


@pytest.fixture(autouse=True)
def _compilers(optimized):
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f'{", ".join(missing)} missing: pip install -e ".[plan]"')
