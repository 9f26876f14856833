"""Files and folders that are replaced whole, whatever stands there before and whatever fails meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seqlab.errors import InputError
from seqlab.storage.files import new_folder, replace_file, require_place


def fill(folder: Path, text: str) -> None:
    with new_folder(folder) as beside:
        (beside / "a").write_text(text)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for text in ("1", "2"):
        fill(folder, text)
    with pytest.raises(FileNotFoundError), new_folder(folder) as beside:
        (beside / "no" / "where").write_text("3")
    assert (folder / "a").read_text() == "2"
    assert os.listdir(tmp_path) == ["out"]


def test_what_was_replaced_comes_back_where_a_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = tmp_path / "out", Path.rename
    fill(folder, "1")

    def fails(path: Path, target: Path) -> Path:
        if path.name == ".out.new":
            raise OSError("no rename")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no rename"):
        fill(folder, "2")
    assert (folder / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_crash_left_comes_back_or_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    fill(folder, "1")
    folder.rename(tmp_path / ".out.old")
    with pytest.raises(KeyError), new_folder(folder):
        raise KeyError
    assert (folder / "a").read_text() == "1"
    (tmp_path / ".out.old").symlink_to("nowhere")
    (tmp_path / ".out.new").symlink_to("out")
    fill(folder, "2")
    assert (folder / "a").read_text() == "2"
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("1")
    (tmp_path / "link").symlink_to("folder/file")
    replace_file(tmp_path / "link", b"2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_text() == "2"


def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        with pytest.raises(InputError, match=f"output={path} is no file .* leave output out to print"):
            require_place(path)
    for path in (tmp_path, tmp_path / "no" / "where"):
        with pytest.raises(InputError, match="cannot be written"):
            require_place(path)
    require_place(tmp_path / "new")
