"""The page, in a real browser: text in, bars, tags, a translation or a continuation out; and no request elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("tornado", reason="tornado, by which the browser is told what to do, is not installed")

import torch

from browser import CHROMIUM, Browser, browser
from seqlab.models.decoding import Decoding
from served import serving
from tiny_bundles import save

if CHROMIUM is None:
    pytest.skip("no Chromium here", allow_module_level=True)

ASKED = "document.querySelector('form button')"
SHOWN = "document.getElementById('answer').textContent"
STATE = "document.getElementById('state').textContent"
STOP = "document.querySelector('button[type=button]')"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


def ask(page: Browser, port: int, text: str = "", **settings: float | str) -> None:
    page.open(f"http://127.0.0.1:{port}/")
    page.wait(f"!!{ASKED}")
    require_harmless(page)
    for name, value in settings.items():
        page.run(f"document.querySelector('[name={name}]').value = {json.dumps(value)}")
    if text:
        page.run(f"document.querySelector('textarea').value = {json.dumps(text)}")
    page.run(f"{ASKED}.click()")


def require_harmless(page: Browser) -> None:
    """All came from here; and what does not stand in the page, such as what somebody typed, neither runs nor loads."""
    names = page.run("performance.getEntriesByType('resource').map(one => new URL(one.name).hostname)")
    assert set(names) == {"127.0.0.1"}
    assert page.run("getComputedStyle(document.body).maxWidth") != "none"  # the page's own style is allowed
    page.run(
        """{
            const inserted = document.createElement("script");
            inserted.textContent = "window.hurt = true";
            document.body.append(inserted);
            inserted.remove();
        }"""
    )
    assert page.run("window.hurt") is None
    assert page.run("document.querySelectorAll('img').length") == 0


def alphas(page: Browser) -> list[float]:
    """How blue each token of what was read is."""
    colours = page.run("[...document.querySelectorAll('.read .piece')].map(one => one.style.background)")
    return [float(one.rstrip(")").split(",")[3]) if one.startswith("rgba") else float("rgb" in one) for one in colours]


def test_a_token_shows_what_the_model_looked_at(page: Browser, bundles: dict[str, Path], tmp_path: Path) -> None:
    attack = "<img src=x onerror=alert(1)> é"
    pieces = "[...document.querySelectorAll('.looking .piece')]"
    with serving(bundles["seq2seq"]) as served:
        served.service.predictor.task.model.decoder.attention.query.weight.data.mul_(9)  # else all weights are alike
        told = served.post("/predict", {"source": attack, "attention": True}).json
        assert told["attention"]["weights"][0] != told["attention"]["weights"][-1]
        ask(page, served.port, attack)
        page.wait(f"{pieces}.length")
        assert page.run("document.querySelector('.read').textContent") == f"{attack}<end>"
        words = [text.lstrip() or text for text in told["attention"]["target"]]  # a blank stands before the piece
        assert page.run(f"{pieces}.map(one => one.textContent)") == words
        assert page.run("document.querySelector('.looking').textContent") == "".join(told["attention"]["target"])
        assert page.run(f"{pieces}.every(one => one.tabIndex === 0)")
        assert page.run("document.querySelectorAll('img').length") == 0
        events = ("new PointerEvent('pointerenter')", "new FocusEvent('focus')")
        for i, row in enumerate(told["attention"]["weights"]):
            page.run(f"{pieces}[{i}].dispatchEvent({events[i % 2]})")
            assert alphas(page) == pytest.approx([weight / max(row) for weight in row], abs=0.006)  # of 8 bits
            assert page.run(f"{pieces}.findIndex(one => one.matches('.here'))") == i
        page.screenshot(tmp_path / "attention.png")
        page.run(f"document.querySelector('[name=width]').value = 3; {ASKED}.click()")
        page.wait("document.querySelectorAll('td.score').length == 3")
        assert page.run("document.querySelectorAll('.looking').length") == 1
        page.screenshot(tmp_path / "several.png")
        page.run(f"document.querySelector('textarea').value = 'ab '.repeat(100); {ASKED}.click()")
        page.wait(f"!{pieces}.length && {SHOWN}.length")  # too long to show it: the answer comes all the same
    with serving(save(tmp_path / "pooled", "classification", pooling="attention")) as served:
        torch.nn.init.normal_(served.service.predictor.task.model.pooling.query, std=9)
        told = served.post("/predict", {"text": attack, "attention": True}).json
        ask(page, served.port, attack)
        page.wait("document.querySelectorAll('.bar').length")
        (weights,) = told["attention"]["weights"]
        assert alphas(page) == pytest.approx([weight / max(weights) for weight in weights], abs=0.006)
        page.screenshot(tmp_path / "pooled.png")
    with serving(bundles["classification"]) as served:
        ask(page, served.port, attack)
        page.wait("document.querySelectorAll('.bar').length")
        assert page.run("document.querySelectorAll('.piece').length") == 0


def test_the_page_shows_what_each_task_answers(page: Browser, bundles: dict[str, Path], tmp_path: Path) -> None:
    attack = "<img src=x onerror=alert(1)> film"
    with serving(bundles["classification"]) as served:
        ask(page, served.port, attack)
        assert page.wait("document.querySelectorAll('.bar').length") == 2
        widths = page.run("[...document.querySelectorAll('.bar i')].map(bar => parseFloat(bar.style.width))")
        assert sum(widths) == pytest.approx(100, abs=0.01)
        assert widths == sorted(widths, reverse=True)
        require_harmless(page)
        page.screenshot(tmp_path / "classification.png")
    with serving(bundles["tagging"]) as served:
        ask(page, served.port, f"Ann saw Rome. {attack}")
        assert page.wait("document.querySelectorAll('.word').length") > 5
        assert "onerror" in page.run(SHOWN)
        require_harmless(page)
        page.screenshot(tmp_path / "tagging.png")
    with serving(bundles["seq2seq"]) as served:
        for item in ({"source": "a b"}, {"source": "a b", "target_prefix": "A"}):
            (right,) = served.service.predictor.predict([item])
            ask(page, served.port, **item)
            written = "document.querySelector('.looking')?.textContent.replace('<end>', '')"
            page.wait(f"{written} === {json.dumps(right['target'])}")
        page.run(f"document.querySelector('[name=width]').value = 3; {ASKED}.click()")
        page.wait("document.querySelectorAll('td.score').length == 3")
        page.screenshot(tmp_path / "seq2seq.png")
    with serving(bundles["language_modeling"]) as served:
        (right,) = served.service.predictor.predict([{"text": attack}], Decoding(100))
        assert right["continuation"]
        ask(page, served.port, attack, temperature=0)
        page.wait(f"{SHOWN} === {json.dumps(attack + right['continuation'])}")
        assert page.wait(STATE) == "ended after 100 tokens"
        page.screenshot(tmp_path / "language_modeling.png")
        page.run("document.querySelector('[name=max_tokens]').value = 100000; " + f"{ASKED}.click()")
        assert page.wait("document.querySelector('.wrong')?.textContent") == "max_tokens: at most 512"
        page.open(f"http://127.0.0.1:{served.port}/docs")
        page.wait("document.querySelectorAll('h3').length > 5")
        assert page.run("document.querySelector('h3').textContent") == "POST /predict"
        require_harmless(page)
        page.screenshot(tmp_path / "docs.png")


def test_what_is_chosen_filled_and_counted_is_marked(page: Browser, bundles: dict[str, Path], tmp_path: Path) -> None:
    texts = "[...document.querySelectorAll({!r})].map(one => one.textContent)".format
    with serving(bundles["masked_language_modeling"]) as served:
        told: dict[str, Any] = {
            "filled": "<b>(a train . film",
            "masks": [[{"token": " train", "probability": 0.7}], [{"token": " ", "probability": 0.6}]],
        }
        served.service.predictor.answers = lambda asked: [told] * len(asked)
        ask(page, served.port, "<b>(A<mask>.<mask> film")  # some tokenizers change blanks, and capitals
        assert page.wait(texts("h2")) == ["mask 1", "mask 2"]
        assert page.run(texts("mark")) == ["train"]
        assert page.run("document.querySelector('#answer div').textContent") == told["filled"]
        assert page.run(texts(".bar span")) == [" train", '" "']
        told["filled"] = "another text"
        page.run(f"{ASKED}.click()")
        page.wait(f"{SHOWN}.startsWith('another text')")
        assert page.run(texts("mark")) == []
        page.screenshot(tmp_path / "masked.png")
    with serving(bundles["classification"]) as served:
        answer: dict[str, Any] = {"label": ["good"], "probabilities": {"good": 0.9, "bad": 0.2}}
        served.service.predictor.answers = lambda asked: [answer] * len(asked)
        ask(page, served.port)
        assert page.wait(texts(".chosen span")) == ["good"]
        answer = {"label": 3.8476052284240723}
        page.run(f"{ASKED}.click()")
        assert page.wait(texts(".number")) == ["3.848"]
        assert page.run("document.querySelector('.number').title") == "3.8476052284240723"


def test_a_span_is_one_box_in_its_own_colour(page: Browser, bundles: dict[str, Path]) -> None:
    boxes = "[...document.querySelectorAll('.word')].map(one => [one.firstChild.textContent, one.style.background])"
    with serving(bundles["tagging"]) as served:
        text, words = "\U0001f600 Ann  Lee saw Rome", ["\U0001f600", "Ann", "Lee", "saw", "Rome"]
        spans = [{"type": kind, "words": place, "characters": at, "probability": 0.5}
                 for kind, place, at in (("PER", [1, 3], [2, 10]), ("LOC", [4, 5], [15, 19]))]  # fmt: skip
        tags = {"tags": ["O", "B-PER", "I-PER", "O", "B-LOC"], "probabilities": [0.5] * 5, "spans": spans}
        served.service.predictor.answers = lambda asked: [{"words": words, **tags}]
        ask(page, served.port, text)
        page.wait(f"{boxes}.length")
        found = page.run(boxes)
        assert [content for content, _ in found] == [words[0], "Ann  Lee", "saw", "Rome"]
        colours = [colour for _, colour in found]
        assert colours[0] == colours[2] == ""
        assert "" != colours[1] != colours[3] != ""


def test_the_page_tells_what_goes_wrong(page: Browser, bundles: dict[str, Path]) -> None:
    until_idle = "fetch('metrics').then(found => found.text()).then(text => text.includes('unanswered_items 0.0'))"
    with serving(bundles["language_modeling"], endless=True, new_tokens=100_000) as served:
        ask(page, served.port, "a", max_tokens=100_000, temperature=0)
        page.wait(f"{SHOWN}.length > 20")
        assert page.run("document.querySelector('form').ariaBusy") == "true"
        page.run(f"{STOP}.click()")
        assert page.wait(STATE) == "stopped"
        page.wait(until_idle)
        assert page.run(f"{STOP}.hidden && {SHOWN}.length > 20 && !document.querySelector('.wrong')")
        page.run(f"{ASKED}.click()")
        page.wait(f"{SHOWN}.length > 20")
        page.run(f"document.querySelector('[name=max_tokens]').value = 3; {ASKED}.click()")  # the other is left
        (right,) = served.service.predictor.predict([{"text": "a"}], Decoding(3))
        page.wait(f"{SHOWN} === {json.dumps('a' + right['continuation'])}")
        page.wait(until_idle)
        assert page.run("document.querySelector('.wrong')") is None
        for told, message in (
            ("new Response('<h1>', { status: 502 })", "status 502"),
            ('new Response(\'data: {"choices": [{"text": "b"}]}\\n\\n\')', "the text breaks off here"),
        ):
            page.run(f"window.fetch = async () => {told}; {ASKED}.click()")
            assert page.wait("document.querySelector('.wrong')?.textContent").startswith(message)
