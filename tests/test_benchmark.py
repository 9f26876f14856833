"""scripts/benchmark.py: what it promises of its batches, its counts and its comparisons. Figures are not tested."""

from __future__ import annotations

import json
import runpy
import statistics
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmark import rows, training, work
from benchmark.lengths import (
    equal_lengths,
    grouped,
    length_grouped,
    lengths_of,
    padding_of,
    planned,
    real_lengths,
)
from benchmark.measure import Disagreement, Options, Row, Skipped, interleaved, peak_bytes, versus
from benchmark.report import BEGIN, END, write_markdown
from benchmark.sides import Pairs, Step, agreement, language_models, recurrent_steps, share, transformer_steps
from seqlab import Layout, Ragged

LENGTHS = torch.tensor([9, 7, 7, 3, 1])
ENTRY = Path(__file__).resolve().parents[1] / "scripts" / "benchmark.py"


@pytest.mark.parametrize(("sequences", "mean"), [(64, 27), (32, 128), (8, 16)])
def test_batches_have_the_mean_and_the_padding_they_promise(sequences: int, mean: int) -> None:
    for kind in ("random", "bucketed"):
        lengths = lengths_of(kind, sequences, mean)
        assert len(lengths) == sequences
        assert lengths.double().mean().item() == pytest.approx(mean, rel=0.03)
        assert torch.equal(lengths, lengths.sort(descending=True).values)
    assert padding_of([lengths_of("bucketed", sequences, mean)]) <= 1.15
    paddings = [padding_of([lengths_of("random", sequences, mean, spread)]) for spread in (0.0, 0.4, 0.8, 1.2)]
    assert paddings[0] == 1
    assert paddings == sorted(paddings)
    assert paddings[2] > 2


def test_equal_lengths_are_as_many_tokens() -> None:
    lengths = lengths_of("random", 64, 27)
    equal = equal_lengths(lengths)
    assert len(equal.unique()) == 1
    assert int(equal.sum()) == pytest.approx(int(lengths.sum()), rel=0.02)


@pytest.mark.parametrize(("number", "size"), [(1000, 4), (103, 10), (7, 3), (3, 5)])
def test_the_length_grouped_sampler(number: int, size: int) -> None:
    lengths = torch.randint(1, 50, (number,), generator=torch.Generator().manual_seed(3)).tolist()
    order = length_grouped(lengths, size, torch.Generator().manual_seed(4))
    assert sorted(order) == list(range(number))
    assert lengths[order[0]] == max(lengths)
    pools = -(-number // (size * max(1, min(number // (size * 4), 50))))
    rises = [i for i, (a, b) in enumerate(pairwise(lengths[j] for j in order)) if a < b]
    assert len(rises) <= pools  # where pools meet, and where the longest of all left its place


@pytest.mark.parametrize(("number", "size"), [(1000, 4), (2003, 7), (5, 3)])
def test_it_is_the_one_of_hugging_face(number: int, size: int) -> None:
    theirs = pytest.importorskip("transformers.trainer_pt_utils").get_length_grouped_indices
    lengths = torch.randint(1, 50, (number,), generator=torch.Generator().manual_seed(3)).tolist()
    expected = theirs(lengths, size, generator=torch.Generator().manual_seed(4))
    assert length_grouped(lengths, size, torch.Generator().manual_seed(4)) == expected


def test_batches_of_a_text_hold_the_tokens_asked_for() -> None:
    lengths = lengths_of("random", 4000, 20)
    for batches in (planned(lengths, 1000, 1, 8), planned(lengths, 1000, 50, 8), grouped(lengths, 1000, 8)):
        assert len(batches) == 8
        assert statistics.mean(int(batch.sum()) for batch in batches) == pytest.approx(1000, rel=0.15)
    assert padding_of(grouped(lengths, 1000, 8)) < 1.3 < padding_of(planned(lengths, 1000, 1, 8))


def test_lengths_of_real_texts(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(text, encoding="utf-8")

    write("sst/stsa.fine.train", "4 a fine film .\n0 dull\n")
    words = "# text = It's so\n1-2\tIt's\t_\n1\tIt\t_\n2\t's\t_\n2.1\tgone\t_\n3\tso\t_\n"
    write("ud_english_ewt/en_ewt-ud-train.conllu", f"{words}\n1\tYes\t_\n\n")
    write("wikitext2/train.txt", " \n = Title = \n a b c d\n\n")
    found = {name: real_lengths(name, tmp_path).tolist() for name in rows.TEXTS}
    assert found == {"sst": [4, 1], "ewt": [3, 1], "wikitext2": [3, 4]}
    with pytest.raises(Skipped, match="--data"):
        real_lengths("sst", tmp_path / "nowhere")


def must_disagree(ours: Step, theirs: Step, pairs: Pairs, every: int = 1) -> None:
    """Red where one parameter has one other number; tried for each, or for every so many."""
    named = pairs(lambda parameter: parameter.data)
    assert len(named) >= 4
    for name, (_, yours) in [*named.items()][::every]:
        kept = yours.clone()
        with torch.no_grad():
            yours.flatten()[0].add_(0.5) if yours.is_contiguous() else yours[0, 0].add_(0.5)
        with pytest.raises(Disagreement):
            agreement(ours, theirs, pairs)
        yours.copy_(kept)
        assert agreement(ours, theirs, pairs) < 1e-5, name


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize("peer", ["PackedSequence", "padded"])
def test_recurrent_sides_agree_and_other_weights_turn_it_red(cell: str, peer: str) -> None:
    steps, pairs = recurrent_steps(cell, 16, LENGTHS)
    must_disagree(steps["seqlab"], steps[peer], pairs)


def test_a_gradient_alone_that_differs_turns_it_red() -> None:
    steps, pairs = recurrent_steps("LSTM", 16, LENGTHS)
    steps["padded"].gradient *= 1.01
    with pytest.raises(Disagreement, match="gradient"):
        agreement(steps["seqlab"], steps["padded"], pairs)


def test_transformer_sides_agree_and_other_weights_turn_it_red() -> None:
    pytest.importorskip("transformers")
    steps, pairs = transformer_steps(64, LENGTHS)
    assert len(pairs(torch.clone)) == work.LAYERS * 15 + 2  # every parameter but the biases of the keys
    must_disagree(steps["seqlab"], steps["Hugging Face"], pairs, every=4)


def test_language_models_have_the_same_scores_and_weights_travel_both_ways() -> None:
    pytest.importorskip("transformers")
    ours, theirs, pairs = language_models(50, 64, 2, 16, 0.0)
    tokens = torch.randint(50, (int(LENGTHS.sum()),))
    batch = Ragged(tokens, Layout(LENGTHS))

    @torch.no_grad()
    def apart() -> float:
        mine = ours.head.scores(ours(batch)[0].values)
        yours = Ragged.from_padded(theirs(batch.to_padded().long()).logits, LENGTHS).values
        return float((mine - yours).abs().max())

    assert apart() < 1e-5
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    assert apart() > 1e-2
    share(pairs, back=True)
    assert apart() < 1e-4


def test_without_the_peers_a_row_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Skipped, match=r"pip install '\.\[bench\]'"):
        transformer_steps(64, LENGTHS)


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_useful_flops_are_those_that_enter_the_products(cell: str) -> None:
    steps, _ = recurrent_steps(cell, 16, LENGTHS)
    useful = work.recurrent_flops(cell, 16, LENGTHS)
    assert useful == {"LSTM": 24, "GRU": 18}[cell] * 16 * (16 + 16) * 27
    count = {side: work.entering_flops(partial(step.forward, step.x)) for side, step in steps.items()}
    assert 3 * count["seqlab"] == useful
    assert 3 * count["padded"] == useful * padding_of([LENGTHS])


def test_the_row_of_counts_shows_padding() -> None:
    pytest.importorskip("transformers")
    for row in rows.rows_entering(Options(rounds=1, quick=True)):
        assert row.reached
        assert row.ours == 1
        assert row.theirs > 2


def test_the_floor_of_a_recurrence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_step_seconds", lambda cell, width: ([1, 2, 4], [3.0, 5.0, 9.0]))
    # Widths 3, 1, 1 take 7 + 3 + 3 seconds one way; two products of six wait, the other four run at the peak.
    together = work.recurrent_flops("LSTM", 4, torch.tensor([3, 1, 1])) * 4 / 6
    assert work.sequential_floor("LSTM", 4, torch.tensor([3, 1, 1]), peak=1e6) == pytest.approx(26 + together / 1e6)


def test_sides_take_turns_and_the_first_round_is_dropped() -> None:
    log: list[str] = []
    sides = {name: partial(log.append, name) for name in "ABC"}
    times = interleaved(sides, Options(rounds=2))
    assert "".join(log) == "ABCABCABC"
    assert [len(taken) for taken in times.values()] == [2, 2, 2]
    assert len(interleaved(sides, Options(rounds=50, seconds=0.0))["A"]) == 3


def test_ratios_are_taken_round_by_round() -> None:
    row = versus({"a": [1.0, 2.0, 4.0], "b": [2.0, 4.0, 2.0]}, "a", "b", {"a": 10.0, "b": 20.0}, "what", target=1.0)
    assert row.values == [1.0, 1.0, 0.25]
    assert (row.ours, row.theirs, row.value, row.reached) == (5.0, 10.0, 1.0, True)


def test_what_is_reached() -> None:
    assert Row("", "", [1.0, 3.0, 2.0], 2.0).reached is True
    assert Row("", "", [1.0, 3.0, 1.9], 2.0).reached is False
    assert Row("", "", [1.0, 3.0, 1.9], 2.0, at_least=False).reached is True
    assert Row("", "", [], 2.0).reached is None
    assert Row("", "", [1.0]).reached is None


def test_seconds_to_a_loss() -> None:
    points = [(0.0, float("inf"), 0.0), (10.0, 5.0, 0.0), (20.0, 4.0, 0.0), (30.0, 4.5, 0.0)]
    assert training.seconds_to(points, 4.25) == 17.5
    assert training.seconds_to(points, 6.0) == 10.0
    with pytest.raises(ValueError, match="never"):
        training.seconds_to(points, 3.0)


def test_peak_memory_is_that_of_each_step() -> None:
    million = 1_000_000
    steps = [partial(torch.ones, count * million) for count in (1, 16, 4)]
    large, small = (peak / 4 / million for peak in peak_bytes(list, steps))
    assert large == pytest.approx(16, rel=0.1)
    assert small == pytest.approx(4, rel=0.2)


def test_markdown_goes_between_its_marks(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_markdown(file, "new \\1\n")
    assert file.read_text(encoding="utf-8") == f"before\n{BEGIN}\n\nnew \\1\n\n{END}\nafter\n"
    write_markdown(tmp_path / "other.md", "alone\n")
    assert (tmp_path / "other.md").read_text(encoding="utf-8") == "alone\n"


def test_the_page_on_performance_has_the_marks() -> None:
    page = (ENTRY.parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page.index(BEGIN) < page.index(END)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):  # which it sets
        monkeypatch.setenv(name, "1")
    words = ["--quick", "--threads", "1", "--rounds", "3", "--output", str(tmp_path), "--data", str(tmp_path)]
    pattern = "LSTM 512 bucketed mean27|LSTM 256 random sst|beam"
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *words, "--only", pattern, "--markdown", str(tmp_path / "t.md")])
    with pytest.raises(SystemExit) as leaving:
        runpy.run_path(str(ENTRY), run_name="__main__")
    assert leaving.value.code == 0
    stored = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
    assert stored["machine"]["threads"] == 1
    assert [row["against"].partition(":")[0] for row in stored["rows"][:4]] == [
        "PackedSequence",
        "padded",
        "ragged efficiency",
        "UFU",
    ]
    for row in stored["rows"][:4]:
        assert {len(taken) for taken in row["samples"].values()} == {3}
        assert row["reached"] in (True, False)
    assert "no sst/stsa.fine.train" in stored["rows"][4]["note"]
    # Without the bench extra the peer is not there, and the row says so.
    assert stored["rows"][5]["note"].startswith(("100.0% of the tokens are the same", "skipped: "))
    assert len((tmp_path / "t.md").read_text(encoding="utf-8").splitlines()) == 4 + 6
    assert "sequential floor" in capsys.readouterr().out


def test_a_pattern_that_matches_nothing_lists_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--only", "no such row"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    with pytest.raises(SystemExit, match="Transformer 512 grouped ewt"):
        runpy.run_path(str(ENTRY), run_name="__main__")
