"""What a run was made with is told from the machine itself."""

import sys
from importlib import metadata

import numpy as np
import pytest

from gpt_jax.machine import in_words, machine, peak_memory_gb, processor


def test_the_machine_in_facts_and_in_words():
    facts = machine()
    assert facts["jax"] == metadata.version("jax") and facts["cores"] >= 1
    assert all(str(value) in in_words(facts) for value in facts.values())


@pytest.mark.parametrize("text", ["model name\t: Fast CPU @ 2GHz\nmodel name\t: other\n", "", None])
def test_the_processor_is_named_where_the_system_names_it(tmp_path, text):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert processor(path) == ("Fast CPU @ 2GHz" if text else processor(tmp_path / "absent"))
    assert processor(tmp_path / "absent")


@pytest.mark.skipif(sys.platform != "linux", reason="it is a high-water mark of Linux")
def test_peak_memory_is_in_gigabytes_and_stays():
    """Break it: leave out the unit."""
    before = peak_memory_gb()
    held = np.ones(int((before + 0.1) * 1e9 / 8) // 2)
    assert 0.05 < before < 64 and peak_memory_gb() >= held.nbytes / 1e9 - 0.01
