"""The wrapper around every verb, with a stub for a job: overrides, sweeps, messages, exit codes, and leftovers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seqlab.cli.command import Command, run_verb
from seqlab.errors import InputError, NonFiniteError, StoppedError

REPOSITORY = Path(__file__).resolve().parents[2]


class Job:
    """Remembers its commands, and fails as the seed says."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def __call__(self, command: Command) -> None:
        self.commands.append(command)
        match command.config.get("seed"):
            case 2:
                raise InputError("seed 2 is unlucky\nso to speak")
            case 5:
                raise NonFiniteError("the loss is nan")
            case 13:
                raise RuntimeError("a defect")
            case 15:
                raise StoppedError("stopped by SIGTERM", 15)

    @property
    def one(self) -> Command:
        (command,) = self.commands
        return command


Run = Callable[..., int]


@pytest.fixture
def job() -> Job:
    return Job()


@pytest.fixture
def run(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the stub verb in an empty folder; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*words: str, config: str = "train") -> int:
        monkeypatch.setattr(sys, "argv", ["seqlab-train", *words])
        try:
            run_verb(job, config)
        except SystemExit as leaving:
            return int(leaving.code or 0)
        return 0

    return run


def left_behind(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# ------------------------------------------------------------------------------------------------ what the job gets


def test_the_job_gets_plain_values_and_what_was_typed(run: Run, job: Job, tmp_path: Path) -> None:
    assert run("model=gru", "trainer.clip=${checkpoints.keep}", "name=a b") == 0
    assert job.one.config["model"]["cell"]["_target_"] == "seqlab.layers.recurrent.cells.GRUCell"
    assert json.loads(json.dumps(job.one.config)) == job.one.config
    assert job.one.config["trainer"]["clip"] == job.one.config["checkpoints"]["keep"]
    assert "hydra" not in job.one.config
    assert job.one.overrides == ("model=gru", "trainer.clip=${checkpoints.keep}", "name=a b")
    assert job.one.trust == set()
    assert job.one.folder is None
    assert left_behind(tmp_path) == set()
    assert Path.cwd() == tmp_path


def test_targets_that_were_typed_are_trusted_and_no_others(run: Run, job: Job, tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text("_target_: from_a_file.Model\nsize: 3\n")
    words = ["model=own", "task._target_=my_module.Task", "+model.part={_target_: my_module.Part, sizes: [1, 2]}"]
    assert run("--config-dir", "mine", *words) == 0
    assert job.one.config["model"]["_target_"] == "from_a_file.Model"
    assert job.one.trust == {"my_module.Task", "my_module.Part"}


def test_a_module_that_is_trusted_is_there_and_not_imported(
    run: Run, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_part.py").write_text("raise RuntimeError('imported')\n")
    assert run("trust=own_part") == 0
    assert job.one.trust == {"own_part"}
    assert run("trust=own_part.inside") == 0
    for word, name in (("nope", "nope"), ("[own_part,nope.part]", "nope.part")):
        assert run(f"trust={word}") == 2
        assert f"trust={name}: there is no module nope here" in capsys.readouterr().err


def test_the_working_folder_can_be_imported_from(run: Run, tmp_path: Path) -> None:
    assert run() == 0
    assert sys.path[0] == str(tmp_path)


def test_flags_may_stand_between_overrides(run: Run, job: Job) -> None:
    assert run("seed=3", "-m", "model=gru") == 0
    assert job.one.overrides == ("seed=3", "model=gru")


# -------------------------------------------------------------------------------------------- messages and exit codes


@pytest.mark.parametrize(("seed", "code"), [(1, 0), (2, 2), (5, 5), (15, 143), (13, 1)])
def test_an_error_ends_with_its_exit_code(run: Run, seed: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"seed={seed}") == code
    told = capsys.readouterr().err
    assert ("Traceback" in told) == (code == 1)
    assert "Hydra" not in told
    if code == 2:
        assert told == "error: seed 2 is unlucky\n       so to speak\n"


def test_an_interrupt_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Job, command: Command) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "__call__", interrupted)
    assert run() == 130


MISTAKES = {
    "trainer.max_stps=3": "no such setting (did you mean trainer.max_steps?)",
    "max_step=3": "no such setting (did you mean trainer.max_steps?)",
    "lr=3": "no such setting (did you mean optimizer.lr?)",
    "modle=gru": "no such setting (did you mean model?)",
    "hydra.swep.dir=x": "no such setting (did you mean hydra.run.dir or hydra.sweep.dir?)",
    "qqqqq=3": "no such setting; --cfg job shows all there are",
    "+trainr.x=3": "no such setting (did you mean trainer?)",
    "~trainer.clop": "no such setting (did you mean trainer.clip?)",
    "batch={tokns: 3}": "no such setting (did you mean batch.tokens?)",
    "tokenizer=bytse": "no such choice (did you mean bytes?); there are bpe, bytes, characters, given, words",
    "seed=1,2": "several values; add -m to run a job for each, or write seed=[1,2] for a list",
    "name={": "cannot be read as key=value; quote the value: \"name='{'\"",
    "train": "cannot be read as key=value",
    "=gru": "cannot be read as key=value: no key stands before the =",
}


@pytest.mark.parametrize(("word", "told"), MISTAKES.items())
def test_a_mistake_is_explained(run: Run, job: Job, word: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(word) == 2
    assert capsys.readouterr().err == f"error: {word}: {told}\n"
    assert job.commands == []


def test_all_mistakes_are_told_at_once(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in MISTAKES if word != "seed=1,2"]
    assert run(*words, "seed=3", "seed=4", "clip=1", "trainer.clip=1", "trainer.clip=2.0", "model=grru") == 2
    told = capsys.readouterr().err
    for word in words:
        assert f"{word}: {MISTAKES[word]}\n" in told
    assert "seed=3 and seed=4: contradictory; keep one\n" in told
    assert "trainer.clip=1 and trainer.clip=2.0: contradictory; keep one\n" in told
    assert "model=grru: no such choice (did you mean gru?)" in told
    assert len(told.splitlines()) == len(words) + 4
    assert left_behind(tmp_path) == set()


def test_the_same_word_twice_is_no_contradiction(run: Run) -> None:
    assert run("seed=3", "seed=3") == 0


def test_every_missing_value_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data=text", "tokenizer=given", "tokenizer.path=x") == 2
    assert capsys.readouterr().err == (
        "error: no value for data.path, tokenizer.end_token: add data.path=VALUE tokenizer.end_token=VALUE\n"
    )
    assert run(config="predict") == 2
    assert "add run=VALUE input=VALUE" in capsys.readouterr().err


def test_a_plus_is_advised_for_arguments_of_ones_own_code_only(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model.cell._target_=mine.Cell", "model.cell.size=3") == 2
    assert "if your own code takes it, write +model.cell.size=3" in capsys.readouterr().err
    assert run("model.cell._target_=mine.Cell", "+model.cell.size=3") == 0
    assert run("model.cell.size=3") == 2
    assert "+" not in capsys.readouterr().err


def test_settings_inside_a_wrong_choice_are_not_judged(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model=transfomer", "model.heads=2") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
        (["--config-name", "nowhere"], "Cannot find primary config 'nowhere'"),
        (["--config-dir", "mine", "model=torn"], "torn.yaml"),
        (["seed=${nothing}"], "Interpolation key 'nothing' not found"),
        (["--resolve"], "--resolve"),
    ],
)
def test_other_wrong_input(
    run: Run, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "torn.yaml").write_text("{")
    assert run(*words) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert told in message
    assert "Traceback" not in message


# ------------------------------------------------------------------------------------------------------------ sweeps


def test_each_job_of_a_sweep_has_its_own_folder_below_one_root(run: Run, job: Job, tmp_path: Path) -> None:
    assert run("-m", "model=lstm,gru", "seed=1,3", "name=grid") == 0
    assert [command.overrides for command in job.commands] == [
        (f"model={model}", f"seed={seed}", "name=grid") for model in ("lstm", "gru") for seed in (1, 3)
    ]
    folders = [command.folder for command in job.commands if command.folder is not None]
    (root,) = {folder.parent for folder in folders}
    assert root.parent == Path("runs/grid")
    assert [folder.name for folder in folders] == ["0", "1", "2", "3"]
    assert left_behind(tmp_path) == {"runs", "runs/grid", str(root), *map(str, folders)}


@pytest.mark.parametrize(
    ("word", "root"),
    [
        ('output_dir="it\'s here"', "it's here/0"),
        ("hydra.sweep.dir=foo/${name}", "foo/grid/0"),
        ("seed=3", "runs/grid/"),
    ],
)
def test_the_root_can_be_chosen(run: Run, job: Job, word: str, root: str, tmp_path: Path) -> None:
    assert run("-m", "name=grid", word) == 0
    assert str(job.one.folder).startswith(root)
    assert not list(tmp_path.rglob("multirun.yaml"))


def test_a_failing_job_is_marked_and_stops_nothing(run: Run, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-m", "seed=1,5,13,2,3", "output_dir=out") == 5
    assert len(job.commands) == 5
    told = capsys.readouterr()
    assert "job 3: seed=2 output_dir=out -> out/3\n" in told.out
    assert told.err.endswith(
        "jobs that failed:\n"
        "  job 1: seed=5 output_dir=out (exit code 5): the loss is nan\n"
        "  job 2: seed=13 output_dir=out (exit code 1): a defect\n"
        "  job 3: seed=2 output_dir=out (exit code 2): seed 2 is unlucky\n"
    )
    assert sorted(path.parent.name for path in Path("out").rglob("error.txt")) == ["1", "2", "3"]
    assert "RuntimeError: a defect" in Path("out/2/error.txt").read_text()


def test_the_mark_goes_when_the_job_is_repeated(run: Run) -> None:
    assert run("-m", "seed=2", "output_dir=out") == 2
    assert run("-m", "seed=3", "output_dir=out") == 0
    assert left_behind(Path("out")) == {"0"}


def test_a_signal_stops_the_whole_sweep(run: Run, job: Job) -> None:
    assert run("-m", "seed=15,3") == 143
    assert len(job.commands) == 1


def test_mistakes_in_a_sweep_are_found_before_its_first_job(
    run: Run, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-m", "model=lstm,transformer", "model.heads=2,4", "seed=1,2", "max_step=3") == 2
    told = capsys.readouterr().err
    assert "model.heads=2,4: no such setting" in told
    assert "where model=lstm\n" in told
    assert told.count("max_step=3: no such setting (did you mean trainer.max_steps?)\n") == 1
    assert run("-m", "model=lstm,grru") == 2
    assert run("-m", "model=glob(x*)") == 2
    assert "model=glob(x*): no such choice; there are gru" in capsys.readouterr().err
    assert job.commands == []
    assert left_behind(tmp_path) == set()


def test_a_sweep_that_hydra_refuses_leaves_nothing(run: Run, tmp_path: Path) -> None:
    assert run("-m", "seed=interval(1,2)") == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("root", ["file", "file/below", "/proc/nowhere"])
def test_a_root_that_cannot_be_made(run: Run, job: Job, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert run("-m", "seed=1,2", f"output_dir={root}") == 2
    assert root.split("/below")[0] in capsys.readouterr().err
    assert job.commands == []


# ------------------------------------------------------------------------------------------- help, --cfg, completion


def test_help_names_groups_choices_and_examples(run: Run, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    told = capsys.readouterr().out
    assert "model: gru, lstm, mingru, minlstm, tanh, transformer, universal\n" in told
    assert "python -m seqlab.train -m model=lstm,gru seed=1,2\n" in told
    assert 'eval "$(seqlab-train --shell-completion install=bash)"' in told
    assert len(told.splitlines()) < 40
    for name in ("evaluate", "predict", "check"):
        assert run("--help", config=name) == 0
        assert capsys.readouterr().out.startswith(f"seqlab.{name}: ")
    assert job.commands == []


def test_cfg_job_shows_the_configuration_even_where_values_are_missing(
    run: Run, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--cfg", "job", "data=text", "seed=7") == 0
    told = capsys.readouterr().out
    assert "path: ???\n" in told
    assert "seed: 7\n" in told
    assert "hydra" not in told
    assert run("--cfg", "job", "sed=7") == 2
    assert "did you mean seed?" in capsys.readouterr().err
    assert job.commands == []
    assert left_behind(tmp_path) == set()


QUICK = """
import contextlib, io, json, os, sys
from seqlab.cli.command import run_verb

answers = []
for words, line in json.loads(sys.argv[1]):
    sys.argv[1:], os.environ["COMP_LINE"], code = words, line, 0
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            run_verb(print, "train")
        except SystemExit as leaving:
            code = leaving.code or 0
    answers.append([code, out.getvalue()])
heavy = {"torch", "datasets", "tensorboard", "tokenizers", "numpy", "pyarrow", "rich"}
print(json.dumps([answers, sorted(heavy & sys.modules.keys())]))
"""


def test_quick_answers_import_nothing_heavy(tmp_path: Path) -> None:
    commands = [
        (["--help"], "", "seqlab.train: train a model"),
        (["--cfg", "job"], "", "max_steps: "),
        (
            ["--shell-completion", "query=bash"],
            "seqlab-train model=",
            "model=gru model=lstm model=mingru model=minlstm model=tanh model=transformer",
        ),
        (["--shell-completion", "query=bash"], "seqlab-train trainer.max_s", "trainer.max_steps="),
        (["--shell-completion", "install=bash"], "", "hydra_bash_completion"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    typed = json.dumps([(words, line) for words, line, _ in commands])
    command = [sys.executable, "-c", QUICK, typed]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers, heavy = json.loads(done.stdout)
    for (words, line, told), (code, out) in zip(commands, answers, strict=True):
        assert (code, told in out) == (0, True), (words, line, out)
    assert heavy == []
    assert left_behind(tmp_path) == set()
