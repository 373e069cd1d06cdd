"""The report's page in a real browser: nothing that is planted runs, everything shows, on any screen and on paper."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from planted_run import EVIL, plant
from playwright.sync_api import Browser, Page

from forethought.report.page import write_page
from forethought.text import printable

CHROMIUM = browser.chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium: `scripts/fetch_chromium.sh .venv/chromium`, install one, or set $FORETHOUGHT_CHROMIUM",
)

LUMINANCE = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
"""Sum of red, green and blue behind the page: 765 is white."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(plant(tmp_path_factory.mktemp("planted") / "run"))


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with browser.launched(CHROMIUM) as launched:
        yield launched


def opened(chrome: Browser, path: Path, width: int = 1280, **options: Any) -> tuple[Page, list[str]]:
    """Return the page without network, and the list in which everything that it should not do is noted."""
    context = chrome.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
    page, noted = context.new_page(), []
    page.on("console", lambda message: noted.append(message.text))
    page.on("pageerror", lambda error: noted.append(str(error)))
    page.on("dialog", lambda dialog: noted.append(dialog.message))
    page.on("request", lambda request: noted.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    return page, noted


@pytest.fixture
def page(chrome: Browser, path: Path) -> Iterator[Page]:
    page, noted = opened(chrome, path)
    yield page
    assert noted == []
    assert page.evaluate("window.ran") is None
    page.context.close()


def kinds(page: Page) -> list[str]:
    return [option.get_attribute("value") or "" for option in page.locator("#kind option").all()]


def test_nothing_that_is_planted_runs_whatever_is_shown(page: Page) -> None:
    assert kinds(page) == ["candidates", "thoughts", "rollouts", "probe", "comparisons"]
    for kind in kinds(page):
        page.select_option("#kind", kind)
        assert page.locator(".item").count() >= 1
        assert "<script>window.ran=1</script>" in page.locator("#items").inner_text()
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert "onerror=window.ran" in page.locator("#judges").inner_text()
    assert page.locator("main svg, main iframe, main script, main a[href]:not([href^='#'])").count() == 0
    assert page.locator("main img:not([src^='data:image/svg+xml;base64,'])").count() == 0


def test_nothing_may_be_loaded_from_the_network(chrome: Browser, path: Path) -> None:
    page, noted = opened(chrome, path)
    page.evaluate("""() => document.body.insertAdjacentHTML("beforeend", '<img src="https://example.org/x.png">')""")
    page.wait_for_timeout(150)
    assert any("Content Security Policy" in line for line in noted)
    page.context.close()


def test_every_drawing_shows(page: Page) -> None:
    page.wait_for_function("document.readyState === 'complete'")
    shown = page.evaluate("""() => [...document.querySelectorAll("img.plot")].filter((one) => one.offsetWidth).map(
        (one) => [one.className, one.naturalWidth, one.offsetWidth, one.offsetHeight, one.alt]
    )""")
    assert len(shown) >= 15
    for name, own, width, height, label in shown:
        assert (name, own > 100, width > 200, height > 40, label != "") == ("plot light", True, True, True, True)


def test_the_steps_of_the_run_stand_side_by_side_and_cover_nothing(page: Page) -> None:
    boxes = [box.bounding_box() for box in page.locator(".graph .step").all()]
    assert len(boxes) >= 6
    for one, other in itertools.combinations(filter(None, boxes), 2):
        apart = (one[start] + one[size] <= other[start] or other[start] + other[size] <= one[start]
                 for start, size in (("x", "width"), ("y", "height")))  # fmt: skip
        assert any(apart)


def test_the_browser_filters_and_sorts(page: Page) -> None:
    assert page.locator("#count").inner_text().startswith("9 found; all 9 of the run")
    scores = [text.rpartition(" ")[2] for text in page.locator(".item header span:last-child").all_inner_texts()]
    assert scores == sorted(scores, key=float, reverse=True)
    page.select_option("#order", "worst")
    assert page.locator(".item header span:last-child").first.inner_text().endswith(min(scores, key=float))
    page.fill("#search", "ROLLOUT7")
    assert page.locator(".item").count() == 1
    assert "HTTP 500" in page.locator(".item").inner_text()
    page.fill("#search", "no such words")
    assert page.locator(".item").count() == 0
    page.fill("#search", "")
    page.select_option("#kind", "rollouts")
    assert page.locator(".item").count() == 2
    page.select_option("#arm", "base-rlmt")
    assert page.locator(".item").count() == 1
    who = page.locator(".item .who").all_inner_texts()
    assert [text.split("\n")[0] for text in who] == ["prefix", "true suffix", "rollout", "rollout"]
    assert "reward 1.00, closed by the harness" in who[2]
    assert page.locator(".item mark.thought").first.inner_text().startswith("bright")


def test_thoughts_are_marked_where_they_stand(page: Page) -> None:
    page.select_option("#kind", "thoughts")
    text = page.locator(".item .block p").first
    assert text.text_content() == f"It is big.How does it breathe? {printable(EVIL)} It sings. {printable(EVIL)}"
    assert text.locator("mark").count() == 1


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_it_without_scrolling_sideways(chrome: Browser, path: Path, width: int) -> None:
    page, noted = opened(chrome, path, width)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for kind in kinds(page):
        page.select_option("#kind", kind)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".graph .step").first.is_visible()
    assert noted == []
    page.context.close()


def test_light_and_dark_by_the_system_and_by_the_button(chrome: Browser, path: Path) -> None:
    for scheme in ("light", "dark"):
        page, _ = opened(chrome, path, color_scheme=scheme)
        assert (page.evaluate(LUMINANCE) > 380) == (scheme == "light")
        visible = page.locator(f"#improve img.plot.{scheme}").first
        assert visible.is_visible()
        page.click("#theme")
        assert (page.evaluate(LUMINANCE) > 380) == (scheme == "dark")
        assert visible.is_hidden()
        page.context.close()


def test_screenshots_and_paper(chrome: Browser, path: Path, tmp_path: Path) -> None:
    for name, width, scheme in (("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 390, "light")):
        page, _ = opened(chrome, path, width, color_scheme=scheme)
        shot = page.screenshot(path=tmp_path / f"{name}.png")
        assert shot.startswith(b"\x89PNG")
        assert len(shot) > 20_000  # a blank page of this size has 5,000 bytes
        page.context.close()
    page, _ = opened(chrome, path, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("#filter").is_hidden()
    assert page.evaluate(LUMINANCE) == 765
    assert page.locator("img.plot.dark").first.is_hidden()
    assert page.locator("img.plot.light").first.is_visible()
    assert page.pdf().startswith(b"%PDF")
    page.context.close()
