"""Where the microworld is kept: wherever one can write, and what is damaged is made anew."""

import pytest

from gpt_jax.data import sources
from gpt_jax.errors import UserError


def test_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    """The microworld is then made in a temporary folder."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert len(sources.read("microworld", "prompts", "test")) >= 500
    assert list(tmp_path.glob("gpt_jax-*"))


def test_no_folder_at_all_can_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        sources.read("microworld", "prompts", "test")


def test_a_user_without_a_home(monkeypatch, tmp_path):
    """As containers have them: there is no entry for the user's number, and no $HOME."""

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", homeless)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert len(sources.read("microworld", "prompts", "test")) >= 500
    assert list(tmp_path.glob("gpt_jax-*"))


@pytest.mark.parametrize("keep", [None, 0.5], ids=["removed", "cut"])
def test_a_damaged_cache_is_made_anew(monkeypatch, tmp_path, keep):
    """Whichever of its files is damaged: cleaners of caches and full disks do not ask."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rows = sources.read("microworld", "prompts", "test")
    [home] = (tmp_path / "gpt_jax" / "microworld").iterdir()
    for path in sorted(home.iterdir()):
        whole = path.read_bytes()
        path.unlink()
        if keep:
            path.write_bytes(whole[: int(keep * len(whole))])
        assert sources.read("microworld", "prompts", "test") == rows
        assert path.exists() and list(home.parent.iterdir()) == [home]
