"""The whole path, as people type it: train, resume, evaluate, predict, check, sweep; and what bad input gets."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from seqlab.training.logging.json_lines import read_points
from tiny_bundles import save
from typing_words import CORPUS, REPOSITORY, TINY, Outcome, tiny

pytestmark = pytest.mark.usefixtures("one_sample")


def test_a_run_leaves_everything_in_its_folder(verb: Callable[..., Outcome]) -> None:
    code, out, err = verb("train", *TINY, "output_dir=run")
    assert code == 0, err
    run = Path("run")
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml", "run.json", "metrics.jsonl", "summary.json", "checkpoints", "bundle",
    }  # fmt: skip
    assert list(run.glob("events.out.tfevents.*"))
    assert {path.name for path in (run / "bundle").iterdir()} == {
        "model.json", "model.safetensors", "tokenizer.json", "README.md",
    }  # fmt: skip
    metadata = json.loads((run / "run.json").read_text())
    assert metadata["status"] == "success"
    assert metadata["versions"]["python"] == sys.version.split()[0]
    assert (metadata["device"], metadata["dtype"], metadata["threads"]) == ("cpu", "float32", torch.get_num_threads())
    assert metadata["gemm_gflops"] > 0.1
    assert {"command", "seed", "git", "host", "tokenizer", "data", "plan", "parameters", "format_version"} <= set(
        metadata
    )
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 6
    assert 0 < summary["useful_flops_utilization"] < 1
    assert {"loss", "ppl", "bits_per_byte", "by_length"} == set(summary["test"]) == set(summary["validation_best"])
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 6
    points = read_points(run / "metrics.jsonl")
    assert [(point["step"], point["split"]) for point in points if point["split"] != "train"] == [
        (3, "validation"), (6, "validation"), (6, "test"),
    ]  # fmt: skip
    for point in points:
        if point["split"] == "train":
            at_the_end = (
                point["useful_flops_utilization"] * metadata["gemm_gflops"]
            )  # which may have been measured again
            assert 0 < point["useful_gflops"] <= at_the_end * 1.000001
            assert point["mem_gb"] > 0.02
    assert "tensorboard --logdir run" in out
    assert f"{summary['test']['loss']:.4f}" in out
    assert "padding avoided" in err
    assert not Path("outputs").exists()
    assert sorted(path.name for path in Path().iterdir()) == ["run"]

    code, _, err = verb("train", *TINY, "output_dir=run")
    assert code == 2
    assert "resume=run" in err
    assert "output_dir" in err


def test_evaluate_repeats_the_figures_of_training(verb: Callable[..., Outcome]) -> None:
    verb("train", *TINY, "output_dir=run")
    summary = json.loads(Path("run/summary.json").read_text())
    for split, key in (("test", "test"), ("validation", "validation_best")):
        code, out, err = verb("evaluate", "run=run", f"split={split}")
        assert code == 0, err
        metrics = json.loads(out)
        assert metrics == json.loads(Path(f"run/evaluation-{split}.json").read_text())
        for name in ("loss", "ppl", "bits_per_byte"):
            assert metrics[name] == pytest.approx(summary[key][name], rel=1e-5)
    other = ["data=text", f"data.path={CORPUS / 'train.txt'}", f"data.test={CORPUS / 'test.txt'}"]
    code, out, err = verb("evaluate", "run=run/bundle", *other)
    assert code == 0, err
    assert json.loads(out)["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-5)

    code, _, err = verb("evaluate", "run=run/bundle")
    assert code == 2
    assert "data=" in err
    code, _, err = verb("evaluate", "run=run", "data.path=other.txt")
    assert (code, err) == (2, "error: data.path=other.txt: no such setting while no data= is chosen: add data=text\n")
    code, _, err = verb("evaluate", "run=run/bundle", "data.path=other.txt")
    assert code == 2
    assert "add data=NAME, one of ag_news, algorithmic, conll" in err
    code, _, err = verb("evaluate", "run=run", "split=tset")
    assert code == 2
    assert "'test'" in err
    code, _, err = verb("evaluate", "run=nowhere")
    assert code == 2
    assert "nowhere" in err


def test_a_run_in_bfloat16_is_evaluated_as_it_was_trained(verb: Callable[..., Outcome]) -> None:
    smoothed = "task.model.label_smoothing=0.2"  # which a figure of evaluation does not contain
    assert verb("train", *TINY, smoothed, "precision=bfloat16", "output_dir=run")[0] == 0
    assert json.loads(Path("run/run.json").read_text())["dtype"] == "bfloat16"
    test = json.loads(Path("run/summary.json").read_text())["test"]
    found = {}
    for words in ([], ["precision=float32"]):
        code, out, err = verb("evaluate", "run=run", *words)
        assert code == 0, err
        found[len(words)] = json.loads(out)["loss"]
    assert found[0] == pytest.approx(test["loss"], rel=1e-7)
    assert 1e-7 < abs(found[1] / test["loss"] - 1) < 1e-3


def test_predict_continues_prompts_in_order(verb: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    verb("train", *TINY, "output_dir=run")
    items = [{"text": "the old lamp", "id": 7}, {"text": ""}, {"text": "Zoë ëë 日本"}]
    Path("in.jsonl").write_text("\n".join(json.dumps(item) for item in items) + "\n\n")
    sampled = ["run=run", "input=in.jsonl", "decoding.temperature=0.9", "decoding.max_tokens=7"]
    code, out, err = verb("predict", *sampled, "seed=3")
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [{k: v for k, v in line.items() if k != "continuation"} for line in lines] == items
    assert all(isinstance(line["continuation"], str) for line in lines)
    assert verb("predict", *sampled, "seed=3")[1] == out
    assert verb("predict", *sampled, "seed=4")[1] != out
    assert verb("predict", *sampled, "seed=3", "output=out.jsonl")[1] == ""
    assert Path("out.jsonl").read_text() == out

    Path("one.jsonl").write_text(json.dumps(items[0]))  # alone, it is continued as in company
    alone = verb(
        "predict", "run=run/bundle", "input=one.jsonl", "decoding.temperature=0.9", "decoding.max_tokens=7", "seed=3"
    )[1]
    assert json.loads(alone) == lines[0]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(items[0]).encode())))
    assert (
        verb("predict", "run=run", "input=-", "decoding.temperature=0.9", "decoding.max_tokens=7", "seed=3")[1] == alone
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"text": "a"}\n{"txt": "b"}\n', "line 2"),
        (b'{"text": 3}\n', "line 1"),
        (b"{broken\n", "line 1: not JSON"),
        (b'{"text": "a\xff"}\n', "line 1: not UTF-8 (byte 0xff"),
        (b'{"text": "a", "score": NaN}\n', "line 1: not JSON (NaN is no JSON number)"),
        (b'\xef\xbb\xbf{"text": "a"}\n[]\n', "line 2: an array"),
        (b"\n \n", 'no line; expected one object, such as {"text": "Return the"}'),
        (b'"Who"\n', 'line 1: a string, but every line should be an object such as {"text": "Return the"}\n'),
        (b"3\n", "line 1: a number, but"),
        (b"null\n", "line 1: null, but"),
        (
            b"Who?\n",
            "line 1: not JSON (Expecting value at character 1); every line should be an object such as "
            """{"text": "Return the"}: jq -cR '{text: .}' FILE makes one of each line of a text file\n""",
        ),
        (
            b'[\n{"text": "a"}\n]\n',
            "line 1: not JSON (Expecting value at character 2); of an array, write each object on",
        ),
        (b'[{"text": "a"}]\n', "of an array, write each object on a line of its own"),
        (b'{"text": "\\ud800"}\n', "not valid Unicode"),
    ],
)
def test_predict_refuses_bad_lines_and_writes_nothing(verb: Callable[..., Outcome], content: bytes, words: str) -> None:
    save(Path("run"), "language_modeling")
    Path("in.jsonl").write_bytes(content)
    code, out, err = verb("predict", "run=run", "input=in.jsonl", "output=out.jsonl")
    assert (code, out) == (2, "")
    assert words in err
    assert not Path("out.jsonl").exists()
    for output in ("in.jsonl", "./in.jsonl"):
        code, _, err = verb("predict", "run=run", "input=in.jsonl", f"output={output}")
        assert code == 2
        assert "is the input itself: choose another output" in err
        assert Path("in.jsonl").read_bytes() == content


def test_a_damaged_or_strange_bundle_is_refused(verb: Callable[..., Outcome]) -> None:
    own = [*TINY, "model.cell._target_=my_module.MyCell", "output_dir=run"]
    assert verb("train", *own)[0] == 0
    described = json.loads(Path("run/bundle/model.json").read_text())
    assert described["task"]["model"]["encoder"]["cell"]["part"] == "my_module:MyCell"
    code, _, err = verb("evaluate", "run=run")
    assert code == 2
    assert "trust=my_module" in err
    code, _, err = verb("evaluate", "run=run", "trust=my_module")
    assert code == 0, err
    weights = Path("run/bundle/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, _, err = verb("evaluate", "run=run", "trust=my_module")
    assert code == 2
    assert "model.safetensors" in err


@pytest.mark.parametrize("model", ["lstm", "gru", "tanh", "mingru", "minlstm", "transformer", "universal"])
def test_check_passes_for_every_model(verb: Callable[..., Outcome], model: str) -> None:
    deep = "model.max_steps=3" if model == "universal" else "model.layers=2"
    code, out, err = verb("check", *TINY, f"model={model}", deep, "model.dropout=0.5")
    assert code == 0, err
    assert out.count("same") == 4


def test_check_passes_for_a_cell_whose_state_is_nested(verb: Callable[..., Outcome]) -> None:
    Path("keyed.py").write_text(
        "import torch\n"
        "class Keyed(torch.nn.Module):\n"
        "    def __init__(self, input_size, hidden_size):\n"
        "        super().__init__()\n"
        "        self.cell = torch.nn.LSTMCell(input_size, hidden_size)\n"
        "    def initial_state(self, batch):\n"
        "        zeros = self.cell.weight_hh.new_zeros(batch, self.cell.hidden_size)\n"
        "        return {'pair': (zeros, zeros)}\n"
        "    def forward(self, x, state):\n"
        "        h, c = self.cell(x, state['pair'])\n"
        "        return h, {'pair': (h, c)}\n"
    )
    words = ["model.cell._target_=keyed.Keyed", "model.layers=2"]
    code, out, err = verb("check", *TINY, *words)
    assert code == 0, err
    assert out.count("same") == 4
    assert verb("train", *TINY, *words, "output_dir=run")[0] == 0
    assert verb("evaluate", "run=run", "trust=keyed")[0] == 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's compiler, of itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_transformer_with_every_option_leaves_the_bundle_of_one_that_is_not(
    verb: Callable[..., Outcome],
) -> None:
    words = ["model=transformer", "model/positions=relative", "model.layers=1", "model.kv_heads=2", "model.window=5"]
    words += ["model.activation=swiglu", "model.norm=rms", "model.checkpointing=true", "model.dropout=0"]
    losses = []
    for compiled in ("true", "false"):
        code, _, err = verb("train", *tiny(*words), f"compile={compiled}", f"output_dir=run-{compiled}")
        assert code == 0, err
        losses.append([point["loss"] for point in read_points(Path(f"run-{compiled}", "metrics.jsonl"))])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    weights = [load_file(Path(run, "bundle", "model.safetensors")) for run in ("run-true", "run-false")]
    assert weights[0].keys() == weights[1].keys()
    assert verb("evaluate", "run=run-true")[0] == 0


def test_check_finds_a_cell_that_looks_at_its_neighbours(verb: Callable[..., Outcome]) -> None:
    Path("nosy.py").write_text(
        "import torch\n"
        "class Nosy(torch.nn.Module):\n"
        "    def __init__(self, input_size, hidden_size):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.Linear(input_size, hidden_size)\n"
        "    def initial_state(self, batch):\n"
        "        return [self.linear.weight.new_zeros(batch, 1)]\n"
        "    def forward(self, x, state):\n"
        "        return self.linear(x - x.mean(0)), state\n"
    )
    code, out, err = verb("check", *TINY, "model.cell._target_=nosy.Nosy")
    assert code == 8
    assert "one at a time" in err
    assert "DIFFERENT" in out


def test_check_finds_a_norm_over_the_batch(verb: Callable[..., Outcome]) -> None:
    Path("normed.py").write_text(
        "import torch\n"
        "class Normed(torch.nn.Module):\n"
        "    def __init__(self, input_size, hidden_size):\n"
        "        super().__init__()\n"
        "        self.norm = torch.nn.BatchNorm1d(input_size)\n"
        "    def initial_state(self, batch):\n"
        "        return [torch.zeros(batch, 1)]\n"
        "    def forward(self, x, state):\n"
        "        return (self.norm(x) if len(x) > 1 else x), state\n"
    )
    code, _, err = verb("check", *TINY, "model.cell._target_=normed.Normed")
    assert code == 8
    assert "one at a time" in err


@pytest.mark.parametrize("scheme", ["rotary", "learned", "sinusoidal", "none"])
def test_every_scheme_of_positions_trains_and_continues_text(verb: Callable[..., Outcome], scheme: str) -> None:
    words = tiny("model=transformer", f"model/positions={scheme}", "batch.max_length=64")
    words += ["model.positions.max_length=64"] if scheme == "learned" else []
    code, _, err = verb("train", *words, "output_dir=run")
    assert code == 0, err
    Path("in.jsonl").write_text('{"text": "the old"}')
    code, _, err = verb("predict", "run=run", "input=in.jsonl", "decoding.max_tokens=80", "decoding.temperature=2")
    assert code == 0, err
    if scheme == "learned":  # it ends where its positions end
        words[-2:] = ["model.positions.max_length=8"]
        code, _, err = verb("train", *words, "batch.max_length=64", "output_dir=short")
        assert code == 2
        assert "model.positions.max_length=8" in err


@pytest.mark.parametrize("words", [["tokenizer=bytes"], ["tokenizer=characters"], ["tokenizer=words"]])
def test_every_tokenizer_trains(verb: Callable[..., Outcome], words: list[str]) -> None:
    given = [word for word in TINY if not word.startswith("tokenizer")]
    code, _, err = verb("train", *given, *words, "output_dir=run", f"loader.workers={int('tokenizer=words' in words)}")
    assert code == 0, err
    test = json.loads(Path("run/summary.json").read_text())["test"]
    assert ("bits_per_byte" in test) is (words != ["tokenizer=words"])  # which loses text


@pytest.mark.parametrize("model", ["lstm", "mingru", "minlstm"])
def test_overfitting_on_purpose_reaches_a_low_loss(verb: Callable[..., Outcome], model: str) -> None:
    words = [word for word in TINY if not word.startswith(("trainer", "model", "batch", "schedule"))]
    code, _, err = verb(
        "train",
        *words,
        f"model={model}",
        "debug=overfit",
        "batch.tokens=128",
        "model.width=64",
        "trainer.max_steps=200",
        "output_dir=run",
    )
    assert code == 0, err
    assert json.loads(Path("run/summary.json").read_text())["validation_best"]["loss"] < 0.2


def test_a_stream_is_judged_like_its_texts_and_continues_them(verb: Callable[..., Outcome]) -> None:
    code, _, err = verb("train", *tiny(*STREAM, "optimizer=sgd", "trainer.clip=0.25", "output_dir=run"))
    assert code == 0, err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["tokens"] == 6 * 5 * 6
    for words in ([], [f"data.path={CORPUS / 'train.txt'}"]):  # of the run, and of the bundle alone
        run = "run/bundle" if words else "run"
        data = ["data=text", *words, f"data.test={CORPUS / 'test.txt'}"] if words else []
        code, out, err = verb("evaluate", f"run={run}", *data)
        assert code == 0, err
        found = json.loads(out)
        assert found["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-6)
        # All tokens of all texts, and their ends, are predicted.
        rate = found["loss"] * found["rows"]["tokens"] / math.log(2)
        size = sum(len(line) + 1 for line in (CORPUS / "test.txt").read_bytes().split(b"\n") if line)
        assert found["bits_per_byte"] == pytest.approx(rate / size, rel=1e-6)
    Path("in.jsonl").write_text('{"text": "the old"}')
    code, out, err = verb("predict", "run=run", "input=in.jsonl", "decoding.max_tokens=3")
    assert (code, "continuation" in json.loads(out)) == (0, True), err
    code, out, err = verb("check", *tiny(*STREAM, "model.dropout=0.5"))
    assert (code, out.count("same")) == (0, 4), err


@pytest.mark.parametrize("model", [["model=lstm"], ["model=transformer"]])
def test_hidden_tokens_are_learned_judged_and_filled(verb: Callable[..., Outcome], model: list[str]) -> None:
    words = tiny("task=masked_language_modeling", *model)
    code, out, err = verb("train", *words, "output_dir=run")
    assert code == 0, err
    assert re.search(r"\n\[[^\n]*<mask>[^\n]*\]\npredicted: .*\nreference: ", out.partition("samples")[2])
    summary = json.loads(Path("run/summary.json").read_text())
    losses = []
    for run, *data in (
        ["run"],
        ["run/bundle", "data=text", f"data.path={CORPUS / 'train.txt'}", f"data.test={CORPUS / 'test.txt'}"],
    ):
        code, out, err = verb("evaluate", f"run={run}", *data)
        assert code == 0, err
        losses.append(json.loads(out)["loss"])
    assert losses == pytest.approx([summary["test"]["loss"]] * 2, rel=1e-6)  # the same tokens are hidden each time
    Path("in.jsonl").write_text('{"text": "the<mask> lamp", "id": 7}\n{"text": "<mask>"}')
    code, out, err = verb("predict", "run=run", "input=in.jsonl")
    assert code == 0, err
    first, second = map(json.loads, out.splitlines())
    assert first.keys() == {"text", "id", "filled", "masks"}
    assert [len(first["masks"]), len(first["masks"][0]), len(second["masks"])] == [1, 5, 1]
    Path("in.jsonl").write_text('{"text": "the lamp"}')
    code, _, err = verb("predict", "run=run", "input=in.jsonl")
    assert code == 2
    assert "line 1: expected a text with <mask> in it" in err
    code, out, err = verb("check", *words, "model.dropout=0.5")
    assert (code, out.count("same")) == (0, 4), err


def test_what_is_streamed_is_not_stored_and_ends_where_it_should(verb: Callable[..., Outcome]) -> None:
    seldom = ["trainer.eval_every=25", "trainer.save_every=25"]
    code, out, err = verb("train", *tiny(*STREAMING, "trainer.max_steps=50", *seldom, "output_dir=run"))
    assert code == 0, err
    assert "train 50 rows of" in out
    assert "and whatever comes after them" in out
    points = [point for point in read_points(Path("run/metrics.jsonl")) if point["split"] == "train"]
    epochs = [point["epoch"] for point in points]
    assert epochs == sorted(epochs)
    assert epochs[0] == 0  # how far it is through an epoch is not known
    assert 1 < epochs[-1] < 4
    summary = json.loads(Path("run/summary.json").read_text())
    state = json.loads(Path("run/checkpoints/last/state.json").read_text())["state"]
    position = state["position"]
    notes = position["notes"]
    assert notes["epoch"] == position["epoch"]
    assert 0 <= position["batch"] - notes["batch"] <= 4 < position["batch"]  # a pool has three batches or four
    epoch = position["epoch"]
    assert 300 * epoch <= summary["sequences"] <= 300 * (epoch + 1)  # of 300 texts
    assert json.loads(Path("run/run.json").read_text())["data_facts"]["splits"]["train"]["sequences"] == 50
    assert verb("evaluate", "run=run")[0] == 0
    code, out, err = verb("evaluate", "run=run", "data=text", f"data.path={CORPUS / 'train.txt'}")
    assert code == 0, err  # other data is not streamed
    code, _, err = verb("train", *[w for w in TINY if not w.startswith("data")], *STREAMING)
    assert code == 2
    assert "batch.streaming=true reads records from files, not data of PyDocs" in err


def without_timings(path: Path) -> list[dict[str, float]]:
    timed = {"seconds", "seconds_left", "tokens_per_s", "step_ms", "data_wait_fraction", "mem_gb"}
    timed |= {"useful_gflops", "useful_flops_utilization"}
    return [{k: v for k, v in point.items() if k not in timed} for point in read_points(path / "metrics.jsonl")]


STREAM = ["task=stream_language_modeling", "form.lanes=5", "form.window=6"]


STREAMING = ["batch.streaming=true", "batch.pool=3", "batch.learn_from=50"]


CHOICES = {"lstm": ["model=lstm"], "transformer": ["model=transformer"], "stream": STREAM, "streaming": STREAMING}
# Train once for each of the choices, in a fork each. Each is killed where it would save the checkpoint of step 15; an
# evaluation saved one at step 12.
KILLED = """
import json, os, signal, sys
from seqlab import train
import seqlab.experiment, seqlab.cli.results, seqlab.cli.runs, seqlab.training.logging.run_log  # before the forks
from seqlab.training.checkpoint import Checkpoints

save = Checkpoints.save
def save_or_die(self, model, optimizer, state, *rest):
    if state.step == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self, model, optimizer, state, *rest)

Checkpoints.save = save_or_die
for name, words in json.loads(sys.argv[1]).items():
    os.makedirs(name)
    if os.fork() == 0:
        os.chdir(name)
        sys.argv[1:] = [*words, "name=killed"]
        train.main()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def to_be_killed(name: str) -> list[str]:
    """The words of a run of more than an epoch, with checkpoints inside epochs."""
    limits = ["trainer.max_steps=24", "trainer.eval_every=6", "trainer.save_every=5", "trainer.log_every=4"]
    return tiny(*CHOICES[name], *limits, "model.dropout=0.3", "threads=1")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, corpora: Path) -> Path:
    """A folder with a folder for each of `CHOICES`, in which a run was killed."""
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SEQLAB_CACHE": str(corpora)}
    command = [sys.executable, "-c", KILLED, json.dumps({name: to_be_killed(name) for name in CHOICES})]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    ends = [line for line in done.stdout.splitlines() if line.lstrip("-").isdigit()]
    assert ends == [str(-signal.SIGKILL)] * len(CHOICES), done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("name", CHOICES)
def test_killed_in_the_middle_of_an_epoch_and_resumed_it_is_the_same_run(
    verb: Callable[..., Outcome], killed: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(killed / name)
    words = to_be_killed(name)
    (run,) = Path("runs/killed").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    state = json.loads((run / "checkpoints/last/state.json").read_text())["state"]
    assert (state["step"], state["position"]["batch"] > 0) == (12, True)
    assert verb("train", *words, "output_dir=whole")[0] == 0
    code, _, err = verb("train", *words, "name=killed", "resume=auto")
    assert code == 0, err
    assert without_timings(run) == without_timings(Path("whole"))
    assert without_timings(run)[-2]["epoch"] >= 1 or name == "stream"  # lanes of a stream are long
    ours, theirs = (
        {path.name: path.read_bytes() for path in (folder / "checkpoints/last").glob("*.safetensors")}
        for folder in (run, Path("whole"))
    )
    assert ours == theirs
    assert ("carried.safetensors" in ours) is (name == "stream")


def test_resume_says_what_differs(verb: Callable[..., Outcome], caplog: pytest.LogCaptureFixture) -> None:
    Path("runs/text-lstm").mkdir(parents=True)
    assert verb("train", *TINY, "output_dir=runs/text-lstm/1")[0] == 0
    metadata = json.loads(Path("runs/text-lstm/1/run.json").read_text())
    Path("runs/text-lstm/1/run.json").write_text(json.dumps({**metadata, "status": "interrupted"}))
    code, _, err = verb("train", *TINY, "model.layers=2", "resume=auto")
    assert code == 2
    assert "model.layers: 1 there, 2 now" in err
    code, _, err = verb("train", "model.width=32", "resume=runs/text-lstm/1")
    assert code == 2
    assert "model.width: 16 there, 32 now" in err
    code, _, err = verb("train", "resume=runs/text-lstm/1")  # nothing needs to be typed again
    assert code == 0, err
    assert "same bits" not in caplog.text
    elsewhere = {**metadata, "status": "interrupted", "kernels": {"recurrence": "an abacus"}}
    Path("runs/text-lstm/1/run.json").write_text(json.dumps(elsewhere))
    code, _, err = verb("train", "resume=runs/text-lstm/1")
    assert code == 0, err
    assert "not to the same bits: kernels: {'recurrence': 'an abacus'} at its start" in caplog.text
    code, _, err = verb("train", "resume=runs/nothing")
    assert code == 2
    assert "runs/nothing" in err
    code, _, err = verb("train", "resume=runs/text-lstm/1", "debug=fast")  # which changes whatever it likes
    assert code == 2
    assert "trainer.max_steps: 6 there, 4 now" in err


def test_choices_that_stand_nowhere_or_elsewhere_are_compared_on_resume(verb: Callable[..., Outcome]) -> None:
    pairs = ["task=seq2seq", "data=algorithmic", "data.train=30", "data.validation=5", "data.test=5", "model.width=8"]
    pairs += ["tokenizer=words", "debug=fast", "output_dir=run", "task.decoding.max_tokens=3"]
    code, _, err = verb("train", *pairs)
    assert code == 0, err
    for debug in ("fast", "none"):  # as it was begun; and what says nothing
        code, _, err = verb("train", "resume=run", "task=seq2seq", f"debug={debug}")
        assert code == 0, err
    words = ["resume=run", "task=seq2seq", "tokenizer@form.target_tokenizer=words"]
    code, _, err = verb("train", *words)
    assert code == 2
    assert "form.target_tokenizer: None there" in err
    assert "tokenizer._target_" not in err.replace("form.target_tokenizer._target_", "")


def test_a_refused_resume_changes_nothing_and_bad_input_begins_nothing(verb: Callable[..., Outcome]) -> None:
    Path("text.txt").write_text((CORPUS / "train.txt").read_text())
    words = tiny("data.path=text.txt", "output_dir=run")
    assert verb("train", *words)[0] == 0
    before = Path("run/run.json").read_text()
    Path("text.txt").write_text("one more line\n" + Path("text.txt").read_text())
    code, _, err = verb("train", "resume=run")
    assert code == 2
    assert "source:" in err
    assert Path("run/run.json").read_text() == before
    assert not Path("run/error.txt").exists()
    code, _, err = verb("evaluate", "run=run")
    assert code == 2
    assert "type data=" in err

    assert verb("train", *tiny("data.path=missing.txt", "output_dir=new"))[0] == 2
    assert not Path("new").exists()
    code, _, err = verb("train", *tiny("output_dir=new", "resume=auto"))
    assert code == 0, err
    code, out, err = verb("train", *tiny("output_dir=new", "resume=auto"))
    assert (code, "finished already" in out) == (0, True), err


def test_a_run_limited_by_minutes_resumes_and_may_change_what_is_free(verb: Callable[..., Outcome]) -> None:
    words = tiny("trainer.max_steps=null", "trainer.max_minutes=0.01", "schedule=constant", "schedule.warmup_steps=1")
    assert verb("train", *words, "output_dir=run")[0] == 0
    code, _, err = verb("train", "resume=run", "trainer.micro_tokens=200", "loader.workers=1")
    assert code == 0, err
    code, _, err = verb("train", "resume=run", "trainer.clip=0.5")
    assert code == 2
    assert "trainer.clip: 1.0 there, 0.5 now" in err


@pytest.mark.parametrize("limit", ["trainer.max_epochs=1", "trainer.max_tokens=9000"])
def test_a_run_that_would_end_in_its_warm_up_is_told_so(
    verb: Callable[..., Outcome], limit: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["model=tanh", "trainer.max_steps=null", limit]
    code, _, err = verb("train", *tiny(*words, "schedule.warmup_steps=100"), "output_dir=run")
    assert code == 0, err
    told = re.search(
        rf"{limit} ends training after about (\d+) steps, .* set schedule.warmup_steps=(\d+), or train longer",
        caplog.text,
    )
    assert told is not None
    steps = json.loads(Path("run/summary.json").read_text())["steps"]
    assert abs(int(told[1]) - steps) <= 1
    assert int(told[2]) == int(told[1]) // 10
    caplog.clear()
    assert verb("train", *tiny(*words, f"schedule.warmup_steps={steps // 2 - 1}"), "output_dir=other")[0] == 0
    assert "warmup_steps" not in caplog.text


def test_own_optimizer_and_schedule(verb: Callable[..., Outcome]) -> None:
    Path("mine.py").write_text(
        "import torch\n"
        "from seqlab.training.schedules import Schedule\n"
        "def sgd(model, lr: float, betas: list[float], eps: float, weight_decay: float):\n"
        "    return torch.optim.SGD(model.parameters(), lr=lr)\n"
        "class Half(Schedule):\n"
        "    def __init__(self, warmup_steps: int, floor: float):\n"
        "        pass\n"
        "    def factor(self, step, progress):\n"
        "        return 0.5\n"
    )
    own = ["optimizer._target_=mine.sgd", "optimizer.lr=0.2", "schedule._target_=mine.Half"]
    code, _, err = verb("train", *TINY, *own, "output_dir=run")
    assert code == 0, err
    points = [point for point in read_points(Path("run/metrics.jsonl")) if point["split"] == "train"]
    assert {point["lr"] for point in points} == {0.1}


def test_a_sweep_has_a_folder_per_job_and_survives_a_failing_one(verb: Callable[..., Outcome]) -> None:
    code, out, err = verb("train", "-m", *tiny("name=sweep", "model=gru,transformer", "model.width=16,15"))
    assert code == 2  # the Transformer's 4 heads cannot share 15 features
    (root,) = Path("runs/sweep").iterdir()
    status = {path.parent.name: json.loads(path.read_text())["status"] for path in root.glob("*/run.json")}
    assert status == {"0": "success", "1": "success", "2": "success"}
    assert "must be a multiple" in (root / "3" / "error.txt").read_text()
    assert "job 3" in err
    table = out.rpartition(f"each job in {root}, on validation data")[2]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    best = [json.loads((root / job / "summary.json").read_text())["validation_best"]["loss"] for job in "012"]
    assert re.findall(r"[\w.]+", table.splitlines()[2]) == ["job", "model", "model.width", "loss", "step"]
    assert cells == [
        ["0", "gru", "16", f"{best[0]:.4f}", "6"],
        ["1", "gru", "15", f"{best[1]:.4f}", "6"],
        ["2", "transformer", "16", f"{best[2]:.4f}", "6"],
    ]
    summary = json.loads((root / "1" / "summary.json").read_text())
    del summary["monitor"]  # as runs had it that were finished by an older version
    (root / "1" / "summary.json").write_text(json.dumps(summary))
    words = tiny(f"output_dir={root}", "name=sweep", "resume=auto", "model=gru", "model.width=16,15")
    code, out, err = verb("train", "-m", *words)
    assert code == 0, err
    assert "no result" in next(line for line in out.splitlines() if line.startswith("│ 1"))


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["data.path=missing.txt"], "data.path=missing.txt"),
        (["data.path=empty.txt"], "empty.txt: no record in it"),
        (["data.path=latin.txt"], "latin.txt, line 2: not UTF-8"),
        (
            ["experiment=trec6", "data=json", "data.path=data/trec6/train.jsonl"],
            "python scripts/reproduce.py --data RAW",
        ),
        (["task=classification"], "label missing; choose another task= or data="),
        (["data.path=few.txt", "data.validation=null"], "data.validation"),
        (["batch.tokens=20", "batch.over_long=error"], "tokens, the limit is 20"),
        (["trainer.max_step=3"], "did you mean trainer.max_steps"),
        (["model=lsmt"], "did you mean lstm"),
        (["modle=lstm"], "did you mean model"),
        (["model.width=wide"], "model.width: expected int, got 'wide'"),
        (["trainer.max_steps=3", "trainer.max_steps=4"], "contradictory"),
        (
            ["batch.max_length=1000", "schedule.warmup_steps=9"],
            ["schedule.warmup_steps=9 would never end", "batch.max_length=1000 cannot fit"],
        ),
        (["trainer.max_steps=null"], "trainer.max_epochs"),
        (["trainer.micro_tokens=20"], "trainer.micro_tokens"),
        (["output_dir=/proc/nothing"], "/proc/nothing"),
        (["output_dir=latin.txt"], "latin.txt"),
        (["model.causal=false"], "model.causal=true"),
        (["task=stream_language_modeling", "model=transformer"], "set model=lstm or another"),
        (["task=stream_language_modeling", "batch.max_length=9"], "see form.window"),
        (["task=masked_language_modeling", "model.causal=true"], "set model.causal=false"),
        ([*STREAMING, "data.test=null"], "cuts nothing from data.path: give data.test"),
        ([*STREAMING, "task=stream_language_modeling"], "not the lanes of a stream"),
        (
            [*STREAMING, "trainer.max_epochs=2", "loader.workers=1"],
            ["set trainer.max_epochs=null", "set loader.workers=0"],
        ),
        (["batch.learn_from=0"], "batch.learn_from=0: expected at least 1"),
        (
            ["task=masked_language_modeling", "task.random=0.3"],
            "random=0.3: expected shares",
        ),
        (["device=cuda:99"], "device=cuda:99"),
        (["threads=0", "seed=-1"], ["threads=0", "seed=-1"]),
        (["precision=half"], "precision: expected 'float32' or 'bfloat16', got 'half'"),
        (["task.model.label_smoothing=1.5"], "label_smoothing=1.5: expected"),
        (["batch.pool=0", "batch.max_length=0", "loader.prefetch=0"], ["batch.pool=0", "loader.prefetch=0"]),
        (["batch.tokens=0"], "batch.tokens=0: expected"),
        (["model.layers=0"], "model.layers=0"),
        (["model.width=0"], "model.width=0: expected"),
        (["model.width=-3"], "model.width=-3: expected"),
        (["model.dropout=1.5"], "model: dropout probability has to be between 0 and 1"),
        (["model=transformer", "model.heads=0"], "heads=0"),
        (["model=transformer", "model.mlp_width=0"], "model.mlp_width=0: expected"),
        (["model=universal", "model.width=-4"], "model.width=-4 must be"),
        (["model=universal", "model.mlp_width=-1"], "model.mlp_width=-1: expected"),
        (["model=transformer", "model/positions=learned", "model.positions.max_length=-1"], "model.positions.max_len"),
        (["model.cell._target_=torch.nn.GRUCell"], "initial_state"),
        (["model.cell._target_=torch.nn.Linear"], "Linear has no initial_state"),
        (["model.cell._target_=torch.nn.Softmax"], "Softmax is no cell"),
        (["model.cell._target_=no.Cell"], "there is no module no"),
        # Told together, before any data is looked at.
        (["data.path=none.txt", "trainer.eval_every=0", "optimizer.lr=-1"], "trainer.eval_every=0: expected"),
        (["data.path=none.txt", "schedule.warmup_steps=9"], "error: schedule.warmup_steps=9 would never end within"),
        (
            ["trainer.clip=-1", "optimizer.lr=-1", "checkpoints.keep=0"],
            ["\n       optimizer.lr=-1: expected", "\n       checkpoints.keep=0: at least"],
        ),
    ],
)
def test_bad_input_gets_one_message_and_leaves_no_half_run(
    verb: Callable[..., Outcome], words: list[str], messages: str | list[str]
) -> None:
    Path("empty.txt").write_text("\n")
    Path("latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    Path("few.txt").write_text("one\n")
    code, _, err = verb("train", *tiny(*words))
    assert code == 2, err
    for message in [messages] if isinstance(messages, str) else messages:
        assert message in err
    assert "Traceback" not in err
    assert not list(Path().glob("**/run.json"))
