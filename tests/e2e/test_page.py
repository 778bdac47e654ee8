"""The page in a real browser: the real `mmsearch ui`, headless Chromium.

`MMSEARCH_SCREENSHOTS=DIR` keeps a picture of each step.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

import pymupdf
import pytest
from PIL import Image

from mmsearch.library import RETURN_INTERVAL_S
from tests import poison
from tests.no_network import tried, without_network
from tests.torture.crowd import TURNED

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

HOSTILE = "<img src=x onerror=alert(1)> $x^2$ [a](javascript:alert(2)) :red[x] _b_ **c** :streamlit: www.evil.example"


def write_pdf(path: Path, *pages: str, title: str = "") -> None:
    with pymupdf.open() as document:
        document.set_metadata({"title": title})
        for words in pages:
            page = document.new_page(width=480, height=360)
            page.draw_rect((0, 0, 480, 64), fill=(0.15, 0.3, 0.45), color=None)
            page.insert_text((30, 42), words, fontsize=20, color=(1, 1, 1))
            page.insert_textbox((30, 90, 450, 340), f"{words}. " * 12, fontsize=11)
        document.save(path)


def write_video(path: Path, *colours: str) -> None:
    """Three seconds per colour."""
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for colour in colours:
            frame = av.VideoFrame.from_image(Image.new("RGB", (320, 240), colour))
            for _ in range(30):
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("things")
    for name, colour in {"tomato": (255, 0, 0), "meadow": (0, 255, 0), "evening sky": (0, 0, 255)}.items():
        Image.new("RGB", (400, 300), colour).save(folder / f"{name}.png")
    write_pdf(folder / "quarterly report.pdf", "Quarterly revenue grew", "Hiring plans for winter", "Risks and outlook")
    write_pdf(folder / f"{HOSTILE}.pdf", f"Bread with {HOSTILE} seeds", title=HOSTILE)
    write_video(folder / "walk.mp4", "red", "blue")
    (folder / f"broken {HOSTILE}.pdf").write_bytes(b"%PDF-1.7\nnothing follows")
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("library") / "index_data"


@pytest.fixture(scope="module")
def address(folder: Path, library: Path) -> Iterator[str]:
    """The address of a running page over the folder."""
    env = os.environ | {"MMSEARCH_MODEL": "toy", "MMSEARCH_LIBRARY": str(library)}
    env |= without_network(library.parent / "hook")
    done = subprocess.run([sys.executable, "-P", "-m", "mmsearch", "ingest", str(folder)], env=env, capture_output=True)
    assert done.returncode == 4, done.stderr.decode()
    with serving(env) as address:
        yield address
    assert tried(library.parent / "hook") == []


class serving:
    """`mmsearch ui` on a free port, ended at the end."""

    def __init__(self, env: dict[str, str], *options: str, browser: bool = False) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = (*options, *(() if browser else ("--no-browser",)))
        command = [sys.executable, "-P", "-m", "mmsearch", "ui", "--port", str(self.port), *options]
        self.process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> str:
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert re.search(rf"http://\S+:{self.port}\b", line), line + self.process.stderr.read()
        return f"http://127.0.0.1:{self.port}"

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process.wait(timeout=60)
        with socket.socket() as probe:  # the page itself has ended too
            assert probe.connect_ex(("127.0.0.1", self.port)) != 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "CI needs Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1360, "height": 900})
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    dialogs: list[str] = []
    hosts: set[str | None] = set()
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    yield page
    page.close()
    assert dialogs == []  # nothing from a file ran as a script
    assert hosts <= {"127.0.0.1", None}  # None: data: and blob:


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("MMSEARCH_SCREENSHOTS"):
        page.wait_for_timeout(700)
        page.screenshot(path=Path(folder) / f"{name}.png")


def ask(page: Page, words: str) -> None:
    box = page.get_by_label("What are you looking for?")
    box.fill(words)
    box.press("Enter")
    page.wait_for_url(re.compile(r"[?&]q="))


def cards(page: Page):
    return page.locator("a.card")


def test_a_query_finds_opens_and_turns_pages(page: Page, address: str):
    page.goto(address)
    expect(cards(page)).to_have_count(6)  # one per file: three photos, two documents, one video
    expect(page.get_by_text("4 pages · 3 photos · 2 clips")).to_be_visible()
    expect(page.get_by_text("1 failed")).to_be_visible()
    keep(page, "1-start")

    ask(page, "quarterly revenue")
    expect(cards(page).first).to_contain_text("quarterly report.pdf")
    expect(cards(page).first).to_contain_text("p.1")
    shown = cards(page).first.locator("img")
    assert shown.evaluate("image => image.naturalWidth") > 100
    assert shown.get_attribute("src").startswith("data:image/webp;base64,")
    keep(page, "2-answers")

    cards(page).first.click()
    expect(page.get_by_text("1 of 3")).to_be_visible()
    large = page.locator("[data-testid=stImage] img")
    expect(large).to_be_visible()
    page.wait_for_function("document.querySelector('[data-testid=stImage] img').naturalWidth > 600")
    keep(page, "3-page")
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("2 of 3")).to_be_visible()
    expect(page.get_by_test_id("stText").filter(has_text="Hiring plans for winter").first).to_be_visible()

    page.go_back()
    expect(page.get_by_text("1 of 3")).to_be_visible()
    page.get_by_role("button", name="Results").click()
    expect(cards(page).first).to_contain_text("quarterly report.pdf")


def test_kinds_filters_and_the_bookmark(page: Page, address: str, browser: Browser):
    page.goto(address)
    ask(page, "red")
    page.get_by_role("button", name="Photos").click()
    page.wait_for_url(re.compile("kinds=image"))
    expect(cards(page).first).to_contain_text("tomato.png")
    expect(cards(page).first).to_have_attribute("href", re.compile("kinds=image"))
    bookmark = page.url
    with browser.new_page() as later:
        later.goto(bookmark)
        expect(cards(later).first).to_contain_text("tomato.png", timeout=60_000)
        expect(later.get_by_label("What are you looking for?")).to_have_value("red")
        later.goto(bookmark + "&path=*.mp4")
        expect(later.get_by_text("No item passes the filters")).to_be_visible(timeout=60_000)


def test_a_clip_plays_from_its_second_and_finds_its_like(page: Page, address: str):
    page.goto(f"{address}/?q=blue&kinds=clip")
    expect(cards(page).first).to_contain_text("00:00:03–00:00:06")
    cards(page).first.click()
    video = page.locator("video")
    expect(video).to_be_visible()
    page.wait_for_function("document.querySelector('video').readyState >= 2")
    assert video.evaluate("video => video.currentTime") >= 3.0
    assert video.evaluate("video => video.duration") == pytest.approx(6.0, abs=0.2)
    keep(page, "4-clip")
    page.get_by_role("button", name="More like this").click()
    page.wait_for_url(re.compile(r"like=\d+"))
    page.get_by_role("button", name="Photos").click()
    expect(cards(page).first).to_contain_text("evening sky.png")


def test_a_picture_is_the_query(page: Page, address: str, tmp_path: Path):
    Image.new("RGB", (300, 200), (12, 245, 8)).save(tmp_path / "some green.jpg")
    page.goto(address)
    page.get_by_role("button", name="Picture").click()
    page.locator("input[type=file]").set_input_files(tmp_path / "some green.jpg")
    expect(page.get_by_text("Searching with this picture")).to_be_visible()
    expect(cards(page).first).to_contain_text("meadow.png")
    page.keyboard.press("Escape")
    keep(page, "5-picture")

    (tmp_path / "trap.png").write_text("<svg onload=alert(1)>")
    page.get_by_role("button", name="Picture").click()
    page.locator("input[type=file]").set_input_files(tmp_path / "trap.png")
    expect(page.get_by_text("That file is no picture")).to_be_visible()


def test_a_picture_that_means_harm_is_refused_with_a_sentence(page: Page, address: str, tmp_path: Path):
    page.goto(address)
    poison.png(tmp_path / "bomb.png", 60_000, 60_000)
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(33 << 20))
    page.get_by_role("button", name="Picture").click()
    page.locator("input[type=file]").set_input_files(tmp_path / "large.png")
    expect(page.get_by_text("File must be 32.0MB or smaller.")).to_be_visible()
    page.locator("input[type=file]").set_input_files(tmp_path / "bomb.png")
    refused = page.get_by_text("That file is no picture that can be read")
    expect(refused).to_contain_text(re.compile(r"60000 × 60000 pixels; the limit is \d+ million"))
    expect(page.get_by_text("Searching with this picture")).to_have_count(0)


def test_no_good_match_says_so_and_shows_the_closest_on_demand(page: Page, address: str):
    page.goto(f"{address}/?q=zebra+submarine&kinds=page")
    expect(page.get_by_text("No good match")).to_be_visible()
    expect(cards(page)).to_have_count(0)
    keep(page, "6-no-match")
    page.get_by_role("button", name="Show the closest").click()
    expect(cards(page)).to_have_count(4)


def test_right_answers_are_marked_and_kept(page: Page, address: str, library: Path):
    def kept() -> list[dict]:
        return [json.loads(line) for line in (library / "judged.jsonl").read_text().splitlines()]

    page.goto(f"{address}/?q=hiring+plans")
    none = page.get_by_role("button", name="Nothing answers this")
    none.click()
    expect(none.filter(has_text="check_circle")).to_be_visible()
    assert kept() == [{"query": "hiring plans", "relevant": []}]
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    cards(page).first.click()
    mark = page.get_by_role("button", name="Right answer")
    mark.click()
    expect(mark.filter(has_text="check_circle")).to_be_visible()
    right = {"query": "hiring plans", "relevant": [{"path": "quarterly report.pdf", "page": 2}]}
    assert kept() == [right]
    keep(page, "9-judged")
    page.get_by_role("button", name="Results").click()
    expect(cards(page).first).to_be_visible()
    expect(none).to_have_count(0)
    cards(page).first.click()
    mark.click()
    expect(mark.filter(has_text="radio_button_unchecked")).to_be_visible()
    assert kept() == []


def test_a_card_opens_as_the_answer_that_it_is(page: Page, address: str):
    """Whatever stands in the boxes at that moment."""
    page.goto(f"{address}/?q=hiring+plans&kinds=page")
    card = cards(page).first
    expect(card).to_contain_text("quarterly report")
    item = card.get_attribute("data-id")
    page.get_by_role("textbox", name="What are you looking for?").fill("bread")
    card.click()
    expect(page.get_by_role("button", name="Right answer")).to_be_visible()
    expect(page).to_have_url(f"{address}/?q=hiring+plans&kinds=page&item={item}")
    expect(page.get_by_role("textbox", name="What are you looking for?")).to_have_value("hiring plans")


def expect_no_markup(page: Page) -> None:
    """Nothing of HOSTILE has become an element. The gallery lies in a shadow root, which locators look into."""
    for made in (
        "img[src=x]",
        "a[href^=javascript]",
        "a[href^=http]",
        ".katex",
        "[data-testid=stMain] em",
        "[data-testid=stMain] strong",
        ".stMarkdownColoredText",
    ):
        expect(page.locator(made)).to_have_count(0)


def test_names_and_texts_are_never_markup(page: Page, address: str):
    page.goto(address)
    expect(page.get_by_text("Added last")).to_be_visible()
    page.get_by_text("1 failed").click()
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    expect(page.get_by_test_id("stMain")).to_have_count(1)
    expect_no_markup(page)
    keep(page, "10-hostile")
    page.goto(f"{address}/?" + urlencode({"q": f"bread seeds {HOSTILE}", "kinds": "page"}))
    expect(cards(page).first).to_contain_text(f"{HOSTILE}.pdf")
    expect_no_markup(page)
    cards(page).first.click()
    expect(page.get_by_test_id("stText").filter(has_text="<img src=x onerror=alert(1)>").first).to_be_visible()
    expect(page.get_by_text("Title")).to_be_visible()
    page.get_by_role("button", name="Right answer").hover()
    tooltip = page.get_by_test_id("stTooltipContent")  # Markdown, with the query in it
    expect(tooltip).to_contain_text("$x^2$")
    expect(tooltip.locator("em, strong, img, a, span.stMarkdownColoredText")).to_have_count(0)
    expect_no_markup(page)
    page.goto(f"{address}/?" + urlencode({"q": HOSTILE, "path": HOSTILE}))
    expect(page.get_by_text("No item passes the filters")).to_be_visible()
    expect_no_markup(page)


def test_on_another_address_the_token_comes_first(browser: Browser, library: Path, tmp_path: Path, address: str):
    token = "correct horse battery"
    env = os.environ | {"MMSEARCH_MODEL": "toy", "MMSEARCH_LIBRARY": str(library), "MMSEARCH_TOKEN": token}
    env |= without_network(tmp_path / "hook")
    with serving(env, "--host", "0.0.0.0") as guarded:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{guarded}/?q=red&kinds=image")
        page.get_by_label("Token").fill("another")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_text("That is not the token")).to_be_visible()
        assert page.request.get(f"{guarded}/_stcore/health").status == 401
        page.goto(f"{guarded}/?" + urlencode({"q": "red", "kinds": "image", "token": token}))
        expect(cards(page).first).to_contain_text("tomato.png")
        assert page.url == f"{guarded}/?q=red&kinds=image"
        page.reload()  # the browser is known now
        expect(cards(page).first).to_contain_text("tomato.png")
        Image.new("RGB", (300, 200), (12, 245, 8)).save(tmp_path / "green.png")
        page.get_by_role("button", name="Picture").click()
        page.locator("input[type=file]").set_input_files(tmp_path / "green.png")
        expect(page.get_by_text("Searching with this picture")).to_be_visible(timeout=60_000)
        shown = page.locator("[data-testid=stImage] img").get_attribute("src")
        assert page.request.get(urljoin(guarded, shown)).status == 200
        with browser.new_context() as stranger:
            assert stranger.request.get(urljoin(guarded, shown)).status == 401
        page.close()
    assert tried(tmp_path / "hook") == []


def test_the_token_is_not_in_what_the_browser_is_started_with(library: Path, tmp_path: Path):
    """Everybody on this machine can read the arguments of a process."""
    (tmp_path / "xdg-open").write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/opened\n'
    )
    (tmp_path / "xdg-open").chmod(0o755)
    env = os.environ | {"MMSEARCH_LIBRARY": str(library), "MMSEARCH_TOKEN": "correct horse battery"}
    env["PATH"] = f"{tmp_path}{os.pathsep}{env['PATH']}"
    with serving(env, browser=True) as address:
        expect_soon(lambda: (tmp_path / "opened").exists())
    assert (tmp_path / "opened").read_text().strip() == address


def expect_soon(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def answered(address: str, **headers: str) -> int:
    """The status of a websocket's handshake."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    try:
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        connection.request("GET", "/_stcore/stream", headers=upgrade | key | headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_other_sites_and_other_names_are_refused(address: str):
    own = address.removeprefix("http://")
    assert answered(address, Host=own, Origin=address) == 101
    assert answered(address, Host="evil.example", Origin="http://evil.example") == 403  # a name that was pointed here
    assert answered(address, Host=own, Origin="http://evil.example") == 403
    assert answered(address, Host=own, Origin="http://localhost:1") == 403  # Streamlit itself would take it


def test_a_folder_is_added_from_an_empty_page(page: Page, tmp_path: Path):
    things = tmp_path / "new things"
    things.mkdir()
    write_pdf(things / "minutes.pdf", "Minutes of the garden club")
    Image.new("RGB", (200, 200), "red").save(things / "rose.png")
    env = os.environ | {"MMSEARCH_MODEL": "toy", "MMSEARCH_LIBRARY": str(tmp_path / "index_data")}
    with serving(env) as address:
        page.goto(address)
        expect(page.get_by_text("Find anything you have seen")).to_be_visible()
        keep(page, "7-empty")
        page.get_by_label("Folder", exact=True).fill(str(tmp_path / "nowhere"))
        page.get_by_role("button", name="Add this folder").click()
        expect(page.get_by_text("There is no such folder")).to_be_visible()
        page.get_by_label("Folder", exact=True).fill(str(things))
        page.get_by_role("button", name="Add this folder").click()
        expect(page.get_by_text("new things: ")).to_be_visible(timeout=120_000)
        expect(cards(page)).to_have_count(2)
        ask(page, "garden club minutes")
        expect(cards(page).first).to_contain_text("minutes.pdf")
        keep(page, "8-added")


def test_the_page_notices_what_other_processes_do(page: Page, tmp_path: Path):
    """Files added, removed and deleted, and a switch to another model, while the page is open."""
    things, library = tmp_path / "things", tmp_path / "index_data"
    things.mkdir()
    write_pdf(things / "report.pdf", "Quarterly revenue grew")
    Image.new("RGB", (200, 200), "red").save(things / "tomato.png")
    Image.new("RGB", (200, 200), "blue").save(things / "sky.png")
    (tmp_path / "sitecustomize.py").write_text(TURNED)  # the model "turned"
    env = {name: value for name, value in os.environ.items() if name != "MMSEARCH_MODEL"}
    env |= {"MMSEARCH_LIBRARY": str(library), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))

    def mmsearch(*words: str | Path) -> None:
        command = [sys.executable, "-P", "-m", "mmsearch", *map(str, words)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def settled() -> None:
        expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
        expect(page.get_by_test_id("stException").or_(page.get_by_test_id("stAlert"))).to_have_count(0)

    mmsearch("ingest", things, "--model", "toy")
    with serving(env) as address:
        page.goto(address)
        ask(page, "garden club")
        expect(page.get_by_text("1 page · 2 photos")).to_be_visible()
        expect(page.get_by_text("No good match")).to_be_visible()

        write_pdf(things / "minutes.pdf", "Minutes of the garden club", "The garden club pays its gardener")
        mmsearch("ingest", things)
        ask(page, "garden club minutes")
        expect(cards(page).first).to_contain_text("minutes.pdf")
        expect(page.get_by_text("3 pages · 2 photos")).to_be_visible()
        page.reload()
        expect(cards(page).first).to_contain_text("minutes.pdf")
        settled()

        like = int(re.search(r"item=(\d+)", cards(page).first.get_attribute("href") or "")[1])
        (things / "minutes.pdf").unlink()
        mmsearch("ingest", things)
        mmsearch("compact")
        cards(page).first.click()  # it is drawn still
        expect(page.get_by_text("is not in the library any longer")).to_be_visible()
        expect(page.get_by_text("1 page · 2 photos")).to_be_visible()
        expect(cards(page).filter(has_text="minutes.pdf")).to_have_count(0)
        settled()
        page.goto(f"{address}/?like={like}")
        expect(page.get_by_text(f"Item {like} is not in the library any longer")).to_be_visible()
        settled()

        page.goto(f"{address}/?q=quarterly+revenue")
        expect(cards(page).first).to_contain_text("report.pdf")
        (things / "report.pdf").unlink()  # nobody has told the library
        cards(page).first.click()
        expect(page.get_by_text("The file is not there now")).to_be_visible()
        expect(page.locator("[data-testid=stImage] img")).to_be_visible()
        settled()

        things.rename(tmp_path / "away")  # a disk is taken away, and put back
        (tmp_path / "other").mkdir()
        mmsearch("ingest", tmp_path / "other")
        page.goto(address)
        expect(page.get_by_text("3 offline").first).to_be_visible()
        (tmp_path / "away").rename(things)
        page.wait_for_timeout(RETURN_INTERVAL_S * 1000)
        page.reload()
        expect(page.get_by_text("1 offline").first).to_be_visible()
        expect(cards(page).filter(has_text="tomato.png")).to_have_count(1)
        settled()

        page.goto(f"{address}/?q=red&kinds=image&weaker=1")
        expect(cards(page).first).to_contain_text("tomato.png")
        mmsearch("models", "use", "turned")
        mmsearch("models", "remove", "toy-1")
        ask(page, "blue")
        page.wait_for_url(re.compile("q=blue"))
        expect(cards(page).first).to_contain_text("sky.png")
        settled()
        page.get_by_test_id("stCaptionContainer").filter(has_text="2 photos").get_by_test_id(
            "stTooltipHoverTarget"
        ).hover()
        expect(page.get_by_test_id("stTooltipContent")).to_contain_text("Answered by turned")


def test_only_this_machine_is_served(address: str):
    port = int(address.rsplit(":", 1)[1])
    listening = Path("/proc/net/tcp")
    if not listening.exists():
        pytest.skip("needs Linux's /proc/net/tcp")
    bound = [line.split()[1] for line in listening.read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert [entry for entry in bound if int(entry.split(":")[1], 16) == port] == [f"0100007F:{port:04X}"]
