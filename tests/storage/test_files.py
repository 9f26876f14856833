"""Files that are replaced whole, whatever stands there before and whatever fails meanwhile."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from seqlab.errors import InputError
from seqlab.storage.files import read_plain, replace_file, replace_link, require_place


def test_files_and_links_are_replaced(tmp_path: Path) -> None:
    for content in (b"1", b"2"):
        replace_file(tmp_path / "a.json", content)
    for target in ("a.json", "b.json"):
        replace_link(tmp_path / "link", target)
    assert sorted(os.listdir(tmp_path)) == ["a.json", "link"]
    assert (tmp_path / "a.json").read_bytes() == b"2"
    assert os.readlink(tmp_path / "link") == "b.json"


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"1")
    (tmp_path / "link").symlink_to("plain")
    os.mkfifo(tmp_path / "pipe")
    assert read_plain(tmp_path / "plain") == b"1"
    for name in ("link", "pipe", ".", "missing"):
        with pytest.raises(OSError, match=re.escape(str(tmp_path))):
            read_plain(tmp_path / name)


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
