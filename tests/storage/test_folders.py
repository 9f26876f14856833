"""Folders are replaced whole or not at all, whatever stands there before and whatever fails meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faults import Killed, interrupt
from seqlab.storage.folders import new_folder, recover, recover_all, remove_folder, replaced


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
        if path.name == ".out.tmp":
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
    (tmp_path / ".out.tmp").symlink_to("out")
    fill(folder, "2")
    assert (folder / "a").read_text() == "2"
    assert os.listdir(tmp_path) == ["out"]


def text_of(folder: Path) -> str | None:
    """Return what a folder of `fill` holds, None if there is no folder. Fail if it is not whole."""
    return (folder / "a").read_text() if folder.exists() else None


@pytest.mark.parametrize("error", [Killed, OSError])
@pytest.mark.parametrize("before", [None, "1"])
def test_there_is_always_an_old_or_a_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, error: type[BaseException]
) -> None:
    for at in range(1, 60):
        parent = tmp_path / str(at)
        parent.mkdir()
        folder = parent / "out"
        if before is not None:
            fill(folder, before)
        with monkeypatch.context() as patch:
            interrupt(patch, at, error)
            try:
                fill(folder, "2")
                finished = True
            except (Killed, OSError):
                finished = False
        if before is not None:
            assert text_of(folder) in (before, "2") or text_of(replaced(folder)) == before, f"operation {at}"
        recover(folder)
        assert text_of(folder) in ((before, "2") if not finished else ("2",)), f"operation {at}"
        assert os.listdir(parent) == (["out"] if folder.exists() else []), f"operation {at}"
        if finished:
            break
    assert 8 < at < 59


def test_a_folder_is_never_seen_half_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(1, 20):
        folder = tmp_path / str(at)
        fill(folder, "1")
        with monkeypatch.context() as patch:
            interrupt(patch, at, Killed)
            try:
                remove_folder(folder)
                finished = True
            except Killed:
                finished = False
        assert text_of(folder) in ("1", None)
        recover(folder)
        if finished:
            break
    assert 2 < at < 19
    assert not folder.exists()
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def test_leftovers_of_other_folders_stay(tmp_path: Path) -> None:
    for name in ("a-1", "a-2", "b-1"):
        fill(tmp_path / name, name)
        (tmp_path / name).rename(tmp_path / f".{name}.old")
        (tmp_path / f".{name}.tmp").mkdir()
    fill(tmp_path / "a-2", "new")
    recover_all(tmp_path, "a-*")
    assert sorted(os.listdir(tmp_path)) == [".b-1.old", ".b-1.tmp", "a-1", "a-2"]
    assert (text_of(tmp_path / "a-1"), text_of(tmp_path / "a-2")) == ("a-1", "new")


def test_files_reach_the_disk_before_the_folder_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to tell which file a descriptor is")
    order: list[str] = []
    rename = Path.rename

    def recording_fsync(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def recording_rename(self: Path, target: Path) -> Path:
        order.append(f"rename to {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "rename", recording_rename)
    with new_folder(tmp_path / "out") as beside:
        (beside / "inner").mkdir()
        (beside / "inner" / "b").write_text("")
        (beside / "a").write_text("")
    assert order == ["b", "inner", "a", ".out.tmp", "rename to out", tmp_path.name]
