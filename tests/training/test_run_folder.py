"""Who may write to a folder, and what it says afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from seqlab.errors import FolderInUseError, InputError, StoppedError
from seqlab.training.run_folder import RunFolder, status_of

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from seqlab.training.run_folder import RunFolder
run = RunFolder.create(sys.argv[1])
run.begin("", {})
assert "torch" not in sys.modules, "slow to refuse"
print("locked", flush=True)
time.sleep(60)
"""


def begun(run: RunFolder) -> RunFolder:
    run.begin("", {})
    return run


def metadata(path: Path) -> dict[str, object]:
    return dict(json.loads((path / "run.json").read_text()))


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a"
    with RunFolder.create(path) as run:
        run.begin("seed: 1\n", {"seed": 1})
        assert metadata(path)["status"] == "running"
        assert metadata(path)["ended"] is None
        run.record(parameters=12)
        run.write_summary({"steps": 3})
        assert run.config == "seed: 1\n"
        assert run.checkpoints == path / "checkpoints"
    stored = metadata(path)
    assert (stored["seed"], stored["parameters"], stored["status"], stored["format_version"]) == (1, 12, "success", 2)
    assert str(stored["ended"]) >= str(stored["started"])
    assert json.loads((path / "summary.json").read_text()) == {"steps": 3}
    assert sorted(p.name for p in path.iterdir()) == [".lock", "config.yaml", "run.json", "summary.json"]


def test_failed_interrupted_and_continued(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), begun(RunFolder.create(tmp_path)):
        _ = 1 / 0
    assert metadata(tmp_path)["status"] == "failed"
    assert "ZeroDivisionError: division by zero" in (tmp_path / "error.txt").read_text()
    with suppress(StoppedError), begun(RunFolder.reopen(tmp_path)):
        assert not (tmp_path / "error.txt").exists()
        assert metadata(tmp_path)["status"] == "running"
        raise StoppedError("stopped", 15)
    assert metadata(tmp_path)["status"] == "interrupted"
    with begun(RunFolder.reopen(tmp_path)):
        pass
    assert metadata(tmp_path)["status"] == "success"
    assert len(metadata(tmp_path)["resumed"]) == 2  # type: ignore[arg-type]
    assert [status_of(e) for e in (None, KeyboardInterrupt(), ValueError())] == ["success", "interrupted", "failed"]


def test_what_fails_before_it_begins_leaves_no_trace(tmp_path: Path) -> None:
    new, done = tmp_path / "new", tmp_path / "done"
    with pytest.raises(ZeroDivisionError), RunFolder.create(new):
        _ = 1 / 0
    assert not new.exists()
    with pytest.raises(ZeroDivisionError), RunFolder.unique(tmp_path / "runs" / "name" / "12-00"):
        _ = 1 / 0
    assert not (tmp_path / "runs").exists()
    other, mine = tmp_path / "runs" / "name" / "12-00", tmp_path / "mine"
    other.mkdir(parents=True)
    mine.mkdir()
    for folder in (RunFolder.unique(other), RunFolder.create(mine)):
        with suppress(ZeroDivisionError), folder:
            _ = 1 / 0
    assert [[*path.iterdir()] for path in (other.parent, other, mine)] == [[other], [], []]  # what was there stays
    with begun(RunFolder.create(done)):
        pass
    before = (done / "run.json").read_bytes()
    with pytest.raises(ZeroDivisionError), RunFolder.reopen(done):
        _ = 1 / 0
    assert (done / "run.json").read_bytes() == before
    assert not (done / "error.txt").exists()


def test_folders_that_hold_something(tmp_path: Path) -> None:
    done, unfinished, foreign = tmp_path / "done", tmp_path / "unfinished", tmp_path / "foreign"
    with begun(RunFolder.create(done)):
        pass
    with pytest.raises(StoppedError), begun(RunFolder.create(unfinished)):
        raise StoppedError("", 15)
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("all of it")
    for path, says in ((done, "a finished run"), (unfinished, "has not finished"), (foreign, "thesis.tex")):
        with pytest.raises(InputError, match=says) as caught:
            RunFolder.create(path)
        assert str(path) in str(caught.value)
        assert ("resume=" in str(caught.value)) is (path != foreign)
        assert "output_dir" in str(caught.value)
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]
    for missing in (foreign, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no run there"):
            RunFolder.reopen(missing)
    assert not (tmp_path / "nowhere").exists()


def test_run_json_of_another_time(tmp_path: Path) -> None:
    for version in (99, 1):
        with begun(RunFolder.create(tmp_path / str(version))) as run:
            run.record(format_version=version)
        told = rf"a run of format {version}, and this seqlab reads format 2: continue it with the seqlab that began it"
        with pytest.raises(InputError, match=told):
            RunFolder.reopen(tmp_path / str(version))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        RunFolder.reopen(tmp_path)


@pytest.mark.parametrize("path", ["file/run", "/proc/seqlab", "/sys/seqlab"])
def test_unwritable(tmp_path: Path, path: str) -> None:
    if path.startswith("/") and not Path(path).parent.exists():
        pytest.skip("no such file system here")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written") as caught:
        RunFolder.create(tmp_path / path)
    assert str(tmp_path / path) in str(caught.value)
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder.unique(tmp_path / path)


def test_a_living_process_keeps_others_out_and_a_dead_one_does_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        for start in (lambda: RunFolder.create(tmp_path), lambda: RunFolder.reopen(tmp_path)):
            with pytest.raises(FolderInUseError, match=f"process {holder.pid} on ") as caught:
                start()
            assert caught.value.exit_code == 4
        holder.kill()
    assert metadata(tmp_path)["status"] == "running"
    with RunFolder.reopen(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()


def test_starts_in_the_same_second_do_not_meet(tmp_path: Path) -> None:
    found: list[Path] = []

    def start() -> None:
        found.append(RunFolder.unique(tmp_path / "12-00").path)

    threads = [threading.Thread(target=start) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in found} == {"12-00", *(f"12-00-{i}" for i in range(2, 21))}
    with begun(RunFolder.create(found[0])):
        pass
