"""The notebook runs from top to bottom, as in Colab, on a preset that takes a minute."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "colab" / "rlhf.ipynb"


def _text(cell, kind):
    """All outputs of one kind of a cell, joined."""
    found = [o["text"] for o in cell.outputs if kind == "stream" and o.output_type == "stream"]
    return "".join(found + [o["data"].get(kind, "") for o in cell.outputs if "data" in o])


@pytest.mark.slow
def test_the_notebook_runs_and_shows_table_plots_samples_and_an_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT_JAX_PRESET", "smoke")
    monkeypatch.setenv("GPT_JAX_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.delenv("XLA_FLAGS")  # one device, as in a fresh Colab
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.metadata.kernelspec.name = "python3"
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable  # this environment's Python, not another's
    client.execute()

    cells = {cell.id: cell for cell in notebook.cells}
    assert "smoke on" in _text(cells["settings"], "stream")
    assert "| PPO |" in _text(cells["results"], "text/markdown")
    assert _text(cells["results"], "text/html").count("<svg") == 2
    assert _text(cells["curves"], "text/html").count("<svg") >= 8
    assert "**PPO**" in _text(cells["samples"], "text/markdown")
    assert cells["chat"].outputs  # the answer
    assert len(cells["train"].outputs) < 60  # progress rewrites its line instead of adding to it
    assert (tmp_path / "run" / "report.html").exists()


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
