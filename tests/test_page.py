"""The page in a real browser: a clip goes in, its words come out, for mouse, keyboard and ear.

    AFFECTGPT_R1_SCREENSHOTS=docs/images pytest tests/test_page.py     # make screenshots

makes the documents' pictures with the demo's model and clips, which must be there (make demo).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.evaluation.answers import Kept
from affectgpt_r1.evaluation.report import write_report
from affectgpt_r1_reproduction.plan import cells, load_table
from test_serve import Place, Server, place, serving  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
SHOTS = os.environ.get("AFFECTGPT_R1_SCREENSHOTS")
DEMO = ROOT / "runs/demo"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed (Debian: apt install chromium)")
    with sync_playwright() as play:
        made = play.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
            ],
        )
        yield made
        made.close()


@pytest.fixture(scope="module")
def served(
    place: Place,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    with serving(place, tmp_path_factory.mktemp("page")) as server:
        yield server


@pytest.fixture
def page(browser: Browser, served: Server) -> Iterator[Page]:
    """The page, just opened; at its end nothing may stand in the console."""
    opened = browser.new_page(viewport={"width": 1180, "height": 900})
    faults: list[str] = []
    refused = "Failed to load resource: the server responded with a status of 422"

    def note(message: ConsoleMessage) -> None:
        if not message.text.startswith(refused):
            faults.append(message.text)

    opened.on("console", note)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.goto(served.url)
    yield opened
    opened.close()
    assert faults == []


def words_of(page: Page) -> list[str]:
    page.wait_for_selector(".answer .words li", timeout=60_000)
    return page.locator(".answer > .words li").all_inner_texts()


def test_an_uploaded_clip_is_answered_with_words_faces_voice_and_wheels(
    page: Page,
    served: Server,
    place: Place,  # noqa: F811
) -> None:
    clip = place.clips[1]
    page.set_input_files("#file", clip)
    page.fill("#subtitle", "line 1")
    page.click("#send")
    words = words_of(page)
    assert words == served.ask(clip, subtitle="line 1").json()["words"]
    assert words
    expect(page.locator("#said")).to_have_text("here is the answer")
    assert page.locator(".answer img.faces").evaluate("image => image.naturalWidth") == 8 * 72
    assert page.locator(".answer .voice .window").count() == 8
    assert page.locator(".answer figure svg").count() == 5
    assert words[0] in page.locator(".placed").first.inner_text()
    assert re.search(r"reading \d+\.\d\d s, answering \d+\.\d\d s", page.inner_text(".answer"))


def test_the_keyboard_alone_will_do_and_everything_has_a_name(
    page: Page,
    place: Place,  # noqa: F811
) -> None:
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert reached[:5] == ["file", "record", "subtitle", "mode", "send"]
    page.set_input_files("#file", place.clips[0])
    page.focus("#file")
    page.focus("#subtitle")
    page.keyboard.type("line 0")
    page.focus("#send")
    page.keyboard.press("Enter")
    words_of(page)
    assert page.evaluate("document.activeElement.id") == "answer"
    for name in ("A clip: choose it, or drop it here", "What is said in it (as far as you know)"):
        expect(page.get_by_label(name)).to_be_visible()
    for role, name in (
        ("button", "Ask"),
        ("button", "Record with the camera"),
        ("group", "How it shall answer"),
        ("radio", "think first, then answer"),
        ("form", "Ask about a clip"),
        ("list", "The answer"),
        ("img", "The face in eight moments, from the beginning to the end"),
        ("img", "Waveform"),
        ("heading", "What it saw and heard"),
    ):
        expect(page.get_by_role(role, name=name, exact=True)).to_be_visible()  # type: ignore[arg-type]
    unnamed = "e => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))"
    for control in page.locator("input, textarea, button, video, select").all():
        assert not control.evaluate(unnamed), control


def test_a_recording_is_sent_like_a_file(page: Page) -> None:
    page.click("#record")
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(2500)
    page.click("#record")
    expect(page.locator("#said")).to_have_text("recording.webm: ready to send")
    page.click("#send")
    words_of(page)
    assert page.locator(".answer .voice").count() == 1


def test_what_cannot_be_answered_is_said_aloud(page: Page, tmp_path: Path) -> None:
    page.click("#send")
    alarm = page.get_by_role("alert")
    expect(alarm).to_have_text("choose, drop or record a clip first")
    (tmp_path / "a<b>.mp4").write_text("no film")
    page.set_input_files("#file", tmp_path / "a<b>.mp4")
    page.click("#send")
    expect(alarm).to_contain_text("the clip cannot be read as video or sound")
    expect(page.locator("#send")).to_be_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_shows_all_of_it_without_scrolling_sideways(
    page: Page,
    place: Place,  # noqa: F811
    scheme: str,
) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_input_files("#file", place.clips[2])
    page.fill("#subtitle", "x" * 300)
    page.click("#send")
    words_of(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    outside = "e => e.getBoundingClientRect().right > 400.5"
    for element in page.locator("main *:visible:not(svg *)").all():
        assert not element.evaluate(outside)


def test_a_page_with_a_token_asks_for_it(
    browser: Browser,
    place: Place,  # noqa: F811
    tmp_path: Path,
) -> None:
    with serving(place, tmp_path, token="sesame") as server:
        page = browser.new_page()
        page.goto(server.url)
        page.set_input_files("#file", place.clips[0])
        page.get_by_label("Token of this server").fill("wrong")
        page.click("#send")
        expect(page.get_by_role("alert")).to_contain_text("send the server's token")
        page.get_by_label("Token of this server").fill("sesame")
        page.click("#send")
        words_of(page)
        page.close()


@pytest.mark.skipif(not SHOTS, reason="makes pictures of the demo's model, when asked: make demo")
def test_the_documents_pictures(browser: Browser, tmp_path: Path) -> None:
    """`make screenshots`: what stands in docs/images."""
    folder, demo = ROOT / str(SHOTS), Place([DEMO / "data/clips/h036-0-0.mp4"], DEMO / "grpo")
    folder.mkdir(exist_ok=True)
    with serving(demo, tmp_path) as server:
        for width, name in ((1000, "page"), (400, "page-400")):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(server.url)
            page.set_input_files("#file", demo.clips[0])
            page.fill("#subtitle", "Of course you may borrow my car again.")
            page.click("#send")
            assert words_of(page)
            shoot(page, folder / f"{name}.png")
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.goto(f"file://{DEMO}/evaluation/grpo/report.html")
    shoot(page, folder / "report.png", {"x": 0, "y": 0, "width": 1100, "height": 1500})


@pytest.mark.skipif(not SHOTS, reason="makes pictures of two runs, when asked: reproduce length")
@pytest.mark.parametrize("penalty", ["none", "p3"])
def test_the_monitor_s_pictures(penalty: str, browser: Browser, tmp_path: Path) -> None:
    """`make screenshots`: the seed whose answers grew most, without a length penalty and with p3.

    Both began from the same cold start (`affectgpt-r1 reproduce length --seeds 5`).
    """
    (last,) = [cell for cell in cells(load_table("length"), penalty, 1) if cell.seed == 5]
    run, out = ROOT / f"runs/reproduce/runs/grpo-{last.name}", tmp_path / "report.html"
    write_report(out, Lexicon.load(), Kept((), (), 0), None, run=run)
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.goto(f"file://{out}")
    box = page.locator("section[aria-labelledby=training]").bounding_box()
    assert box is not None
    clip = {"x": 0, "y": box["y"], "width": 1100, "height": min(box["height"], 1250)}
    shoot(page, ROOT / str(SHOTS) / f"monitor-{penalty}.png", clip)


def shoot(page: Page, path: Path, clip: dict[str, float] | None = None) -> None:
    """A picture of 160 colours: a third of the bytes, and nobody sees it."""
    page.screenshot(path=path, full_page=True, clip=clip)  # type: ignore[arg-type]
    Image.open(path).convert("RGB").quantize(160).save(path, optimize=True)
    page.close()
