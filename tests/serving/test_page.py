"""The page, in a real browser: text in, bars, tags, a translation or a continuation out; and no request elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("tornado", reason="tornado, by which the browser is told what to do, is not installed")

from browser import CHROMIUM, Browser, browser
from served import serving

from seqlab.models.decoding import Decoding

if CHROMIUM is None:
    pytest.skip("no Chromium here", allow_module_level=True)

ASKED = "document.querySelector('form button')"
SHOWN = "document.getElementById('answer').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


def ask(page: Browser, port: int, text: str, **settings: float) -> None:
    page.open(f"http://127.0.0.1:{port}/")
    page.wait(f"!!{ASKED}")
    for name, value in settings.items():
        page.run(f"document.querySelector('[name={name}]').value = {value}")
    page.run(f"document.querySelector('textarea').value = {text!r}; {ASKED}.click()")


def test_the_page_shows_what_each_task_answers(page: Browser, bundles: dict[str, Path], tmp_path: Path) -> None:
    attack = "<img src=x onerror=alert(1)> film"
    with serving(bundles["classification"]) as served:
        ask(page, served.port, attack)
        assert page.wait("document.querySelectorAll('.bar').length") == 2
        widths = page.run("[...document.querySelectorAll('.bar i')].map(bar => parseFloat(bar.style.width))")
        assert sum(widths) == pytest.approx(100, abs=0.01)
        page.screenshot(tmp_path / "classification.png")
    with serving(bundles["tagging"]) as served:
        ask(page, served.port, f"Ann saw Rome. {attack}")
        assert page.wait("document.querySelectorAll('.word').length") > 5
        assert "onerror" in page.run(SHOWN)
        assert page.run("document.querySelectorAll('img').length") == 0  # what is typed is text
        page.screenshot(tmp_path / "tagging.png")
    with serving(bundles["seq2seq"]) as served:
        ask(page, served.port, "a b")
        page.wait(f"{SHOWN}.length")
        page.run(f"document.querySelector('[name=width]').value = 3; {ASKED}.click()")
        page.wait("document.querySelectorAll('#answer .given').length == 3")
        page.screenshot(tmp_path / "seq2seq.png")
    with serving(bundles["language_modeling"]) as served:
        (right,) = served.service.predictor.predict([{"text": attack}], Decoding(100))
        assert right["continuation"]
        ask(page, served.port, attack, temperature=0)
        page.wait(f"{SHOWN} === {json.dumps(attack + right['continuation'])}")
        page.screenshot(tmp_path / "language_modeling.png")
        page.run("document.querySelector('[name=max_tokens]').value = 100000; " + f"{ASKED}.click()")
        assert page.wait("document.querySelector('.wrong')?.textContent") == "max_tokens: at most 512"
        page.open(f"http://127.0.0.1:{served.port}/docs")
        page.wait("document.querySelectorAll('h3').length > 5")
        page.screenshot(tmp_path / "docs.png")
        names = page.run("performance.getEntriesByType('resource').map(one => new URL(one.name).hostname)")
        assert set(names) <= {"127.0.0.1"}
