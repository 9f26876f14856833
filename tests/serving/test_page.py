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
            page.wait(f"{SHOWN} === {json.dumps(right['target'])}")
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
        require_harmless(page)
        page.screenshot(tmp_path / "docs.png")


def test_the_page_tells_what_goes_wrong(page: Browser, bundles: dict[str, Path]) -> None:
    with serving(bundles["language_modeling"], endless=True, new_tokens=100_000) as served:
        ask(page, served.port, "a", max_tokens=100_000, temperature=0)
        page.wait(f"{SHOWN}.length > 20")
        page.run(f"document.querySelector('[name=max_tokens]').value = 3; {ASKED}.click()")  # the other is left
        page.wait("!document.querySelector('.wrong')")
        until_idle = "fetch('metrics').then(found => found.text()).then(text => text.includes('unanswered_items 0.0'))"
        page.wait(until_idle)
        (right,) = served.service.predictor.predict([{"text": "a"}], Decoding(3))
        assert page.run(SHOWN) == "a" + right["continuation"]
        for told, message in (
            ("new Response('<h1>', { status: 502 })", "status 502"),
            ('new Response(\'data: {"choices": [{"text": "b"}]}\\n\\n\')', "the text breaks off here"),
        ):
            page.run(f"window.fetch = async () => {told}; {ASKED}.click()")
            assert page.wait("document.querySelector('.wrong')?.textContent").startswith(message)
