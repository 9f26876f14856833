"""What scripts/reproduce.py makes of published data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import reproduce


def test_only_of_nothing_prepares_the_data_that_an_experiment_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "run", lambda *_: pytest.fail("nothing was to be run"))
    Path("raw/trec6").mkdir(parents=True)
    for name in ("TREC.train", "TREC.test"):
        Path("raw/trec6", name).write_bytes(b"NUM:dist How far is it ?\nLOC:city Where is Z\xfcrich ?\n")
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--data", "raw", "--only"])
    reproduce.main()
    assert capsys.readouterr().out == f"SEQLAB_DATA={tmp_path}/runs/reproduce/data has trec6\n"
    assert Path("runs/reproduce/data/trec6/test.jsonl").read_text(encoding="utf-8") == (
        '{"text": "How far is it ?", "label": "NUM"}\n{"text": "Where is Zürich ?", "label": "LOC"}\n'
    )
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--data", "raw", "--only", "trec6"])
    with pytest.raises(pytest.fail.Exception, match="nothing was to be run"):
        reproduce.main()


def test_remarks_below_the_table_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["| scan_simple | 1 |"]
    monkeypatch.setattr(reproduce, "told", lambda row, data: rows[0] if row.experiment == "scan_simple" else None)
    output, remarks = tmp_path / "results.md", "\n- a remark\n\n| a table | of its own |\n|---|---|\n| 1 | 2 |\n"
    reproduce.write_table(output, tmp_path)
    assert output.read_text() == f"{reproduce.HEAD}{rows[0]}\n"
    output.write_text(output.read_text() + remarks)
    rows[0] = "| scan_simple | 2 |"
    for _ in range(2):
        reproduce.write_table(output, tmp_path)
        assert output.read_text() == f"{reproduce.HEAD}{rows[0]}\n{remarks}"
    monkeypatch.setattr(reproduce, "told", lambda row, data: "| trec6 | 3 |" if row.experiment == "trec6" else None)
    reproduce.write_table(output, tmp_path)  # elsewhere, where the first was never run
    assert output.read_text() == f"{reproduce.HEAD}{rows[0]}\n| trec6 | 3 |\n{remarks}"
