"""The option "attention" of POST /predict."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from seqlab.inference import attention as module
from seqlab.inference.attention import attention_of, rounded
from served import serving
from tiny_bundles import save

CANARY = "xyzzy"


@pytest.mark.parametrize("name", ["seq2seq", "seq2seq-transformer"])
def test_an_answer_tells_what_was_looked_at(
    bundles: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = {"source": "a b", "decoding": {"temperature": 0.0}}
    with serving(bundles[name]) as served:
        assert served.get("/about").json["attends"] is True
        plain = served.post("/predict", item).json
        told = served.post("/predict", {**item, "attention": True, "id": 3}).json
        assert {key: told[key] for key in told.keys() - {"id", "attention"}} == plain
        assert "".join(told["attention"]["source"]) == "a b<end>"
        assert "".join(told["attention"]["target"]).removesuffix("<end>") == told["target"]
        predictor = served.service.predictor
        (asked,) = predictor.read([item])
        ((best,),) = predictor.task.predict(predictor.batch([asked]))
        assert told["attention"] == rounded(attention_of(predictor, asked, best))
        assert all(sum(row) == pytest.approx(1, abs=0.01) for row in told["attention"]["weights"])
        several = {**item, "decoding": {"width": 3, "n_best": 2}, "attention": True}
        several.pop("source")
        (best_of,) = served.post("/predict", {"inputs": [{"source": "a b"}], **several}).json["outputs"]
        assert "".join(best_of["attention"]["target"]).removesuffix("<end>") == best_of["best"][0]["target"]
        assert "attention" not in served.post("/predict", {**item, "attention": False}).json
        for wrong in (
            {"source": CANARY * 60, "attention": True},
            {"source": "a", "target_prefix": CANARY * 60, "attention": True},
            {"inputs": [{"source": CANARY}] * 2, "attention": True},
        ):
            refused = served.post("/predict", wrong)
            assert refused.status == 413
            assert CANARY not in refused.body.decode()
            assert "attention" in refused.json["error"]["message"]
        assert served.post("/predict", {**item, "attention": 1}).status == 422
        monkeypatch.setattr(module, "MOST", len(told["attention"]["target"]))
        assert served.post("/predict", {**item, "attention": True}).status == 200
        monkeypatch.setattr(module, "MOST", len(told["attention"]["target"]) - 1)  # found out when it is written
        assert served.post("/predict", {**item, "attention": True}).status == 413


def test_a_classifier_tells_it_of_its_text(tmp_path: Path) -> None:
    with serving(save(tmp_path, "classification", pooling="attention")) as served:
        told = served.post("/predict", {"text": "film", "attention": True}).json["attention"]
        assert told == {"source": ["<end>", *"film"], "weights": [[0.2] * 5]}  # a new query takes the plain mean


def test_who_does_not_attend_says_so(bundles: dict[str, Path]) -> None:
    for name, item in (("classification", {"text": CANARY}), ("tagging", {"text": CANARY})):
        with serving(bundles[name]) as served:
            assert served.get("/about").json["attends"] is False
            refused = served.post("/predict", {**item, "attention": True})
            assert (refused.status, refused.json["error"]["message"]) == (422, "attention: this model has none to tell")
