"""The peer of scripts/load.py is a fair one: it answers the same, by the same weights, in one block."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import load
import seqlab
from padded_peer import Padded
from seqlab import bundle
from seqlab.errors import CheckFailedError
from untrained_bundles import CELLS

TEXTS = ["", "a fine film", "no", "an awful film, as it is long", "as"]


@pytest.mark.parametrize("kind", ["lstm", "transformer", "gru"])
def test_the_padded_peer_answers_the_same(kind: str, tmp_path: Path) -> None:
    encoder = load.ENCODERS.get(kind, load.ENCODERS["lstm"]) | {"width": 8, "layers": 2}
    encoder |= {"heads": 2} if kind == "transformer" else {"residual": True}
    if kind == "gru":
        encoder["cell"] = {"_target_": f"seqlab.layers.recurrent.cells.{CELLS[kind].__name__}", "_partial_": True}
    run = load.untrained(tmp_path / "bundle", encoder)
    items = [{"text": text} for text in TEXTS]
    right = seqlab.load(run).predict(items)
    told = Padded(bundle.load(run)).predict(items)
    assert all(map(load.alike, told, right))
    assert not load.alike(told[0], right[3])


def test_texts_have_all_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictor = seqlab.load(load.untrained(tmp_path / "bundle", load.ENCODERS["lstm"] | {"width": 8}))
    lengths = [one.tokens for one in predictor.read([{"text": text} for text in load.texts_of(predictor, 300)])]
    assert min(lengths) < 10
    assert 500 < max(lengths) <= 512
    assert abs(sum(lengths) / len(lengths) - 256.5) < 40
    assert capsys.readouterr().out.count("tokens:") == 8
    predictor.longest = 100
    with pytest.raises(CheckFailedError, match="none is cut"):
        load.texts_of(predictor, 20)
