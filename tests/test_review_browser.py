"""Reviews in a browser: keys, what is acknowledged survives, and what a page must not tell."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from rs_lowconf.errors import ReviewError
from rs_lowconf.percents import percent
from rs_lowconf.review import qgis_plugin
from rs_lowconf.review.answers import package_of_answers, with_answers
from rs_lowconf.review.browser import ReviewServer
from rs_lowconf.review.reading import read_package
from rs_lowconf.review.store import ReviewStore
from tests.conftest import OpenChromium, Run
from tests.review_samples import CLASSES, masked, observed, package, published, sample
from tests.stories import tells, type_printed

COUNT = 20
CLASS_KEYS = "0123456789"
Row = tuple[str | None, str | None, str | None]


def rows(folder: Path) -> dict[str, Row]:
    """Return decision, class and reviewer of each sample, read by SQLite."""
    with closing(sqlite3.connect(folder / "review.gpkg")) as database:
        found = database.execute("SELECT sample_id, decision, true_class, reviewer FROM review")
        return {name: (decision, true, who) for name, decision, true, who in found}


def press(browser: Chrome, *keys: str) -> str:
    """Press keys one after the other; return what the page says last."""
    for key in keys:
        before = browser.execute_script(
            "document.getElementById('saved').textContent = ''; return 1"
        )
        assert before == 1
        browser.find_element(By.TAG_NAME, "body").send_keys(key)
        if key not in (Keys.ARROW_LEFT, Keys.ARROW_RIGHT, "n"):
            WebDriverWait(browser, 20).until(lambda b: b.find_element(By.ID, "saved").text != "")
    return browser.find_element(By.ID, "saved").text


def opened(browser: Chrome, url: str) -> Chrome:
    """Open a page, and wait until it knows its answers."""
    browser.get(url)
    WebDriverWait(browser, 20).until(
        lambda b: b.execute_script("return document.body.dataset.ready") == "yes"
    )
    return browser


def here(browser: Chrome) -> str:
    """Return the sample that is shown."""
    return browser.find_element(By.ID, "place").text.split()[1]


class Served:
    """`rslow review serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rs_lowconf", "review", "serve", "--no-browser", str(folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = iter(self.process.stdout.readline, "")
        line = next(line for line in said if "http://" in line)
        self.url = line[line.index("http://") :].strip()

    def kill(self) -> None:
        """End it as the power does."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Served]]:
    """Return what serves a package."""
    started: list[Served] = []

    def start(folder: Path) -> Served:
        started.append(Served(folder))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def kill_browser(browser: Chrome) -> None:
    """Kill every process of a browser but its driver."""
    driver = browser.service.process.pid
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(a): int(b) for a, b in (line.split() for line in listed.splitlines())}

    def below(pid: int) -> bool:
        return pid == driver or (pid in parents and parents[pid] != pid and below(parents[pid]))

    for pid in [p for p in parents if p != driver and below(p)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_what_is_acknowledged_survives_kills_of_browser_and_server(
    tmp_path: Path,
    open_chromium: OpenChromium,
    serve: Callable[[Path], Served],
    socket_enabled: None,
) -> None:
    """Twenty samples by keys, both killed after the seventh: nothing is lost or doubled."""
    folder = package(tmp_path / "review", [sample(number) for number in range(COUNT)])
    order = [
        one["sample_id"] for one in json.loads((folder / "manifest.json").read_text())["samples"]
    ]
    acknowledged: dict[str, Row] = {}
    keys = {"a": "accept", "r": "reject", "u": "unsure", "m": "mixed", "2": "accept"}
    pressed = [[*keys][number % len(keys)] for number in range(COUNT)]
    for first, last in ((0, 7), (7, COUNT)):
        server = serve(folder)
        browser = opened(open_chromium(), server.url)
        assert browser.find_element(By.ID, "count").text == f"{first} of {COUNT} decided"
        name = browser.find_element(By.ID, "reviewer")
        name.send_keys("Ada", Keys.ENTER)
        for number in range(first, last):
            own = here(browser)
            assert own == order[number]
            said = press(browser, pressed[number])
            assert said.startswith(f"Saved: {own} {keys[pressed[number]]}"), said
            suggestion = CLASSES[number % len(CLASSES)]
            true = {"a": suggestion, "2": CLASSES[2]}.get(pressed[number])
            acknowledged[own] = (keys[pressed[number]], true, "Ada")
        server.kill()
        kill_browser(browser)
        found = rows(folder)
        assert {name: row for name, row in found.items() if row[0] is not None} == acknowledged
    assert len(acknowledged) == len(rows(folder)) == COUNT
    assert read_package(folder).decided == COUNT


def test_a_page_opened_as_a_file_keeps_decisions_and_saves_them(
    tmp_path: Path, open_chromium: OpenChromium, rslow: Run, socket_enabled: None
) -> None:
    """They survive a kill of the browser; the saved file is imported, the package is unchanged."""
    store = ReviewStore(tmp_path / "run" / "reviews.sqlite")
    store.path.parent.mkdir()
    folder = published(
        store, tmp_path / "run" / "generate" / "review", [sample(n) for n in range(COUNT)]
    )
    url, profile = (folder / "review.html").as_uri(), tmp_path / "profile"
    browser = opened(open_chromium(profile), url)
    browser.find_element(By.ID, "reviewer").send_keys("Bo", Keys.ENTER)
    order = []
    for number in range(COUNT):
        order.append(here(browser))
        assert press(browser, "r" if number % 2 else "0").startswith(f"Saved: {order[-1]}")
    assert len(set(order)) == COUNT
    assert "All samples are decided" in browser.find_element(By.ID, "saved").text
    kill_browser(browser)
    browser.quit()
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    browser = opened(open_chromium(profile, downloads), url)
    assert browser.find_element(By.ID, "count").text == f"{COUNT} of {COUNT} decided"
    press(browser, "u", Keys.BACKSPACE)  # changed, and changed back
    browser.find_element(By.CSS_SELECTOR, "#keep button").click()
    WebDriverWait(browser, 20).until(lambda _: [*downloads.glob("*.json")])
    (saved,) = downloads.glob("*.json")
    ran = rslow("review", "import", saved, "-s", f"run.dir={tmp_path / 'run'}")
    assert ran.code == 0, ran.err
    assert f"{COUNT} new" in ran.out
    imported = {
        one.sample_id: (one.decision, one.true_class, one.reviewer) for one in store.opinions()
    }
    assert imported == {
        name: ("reject", None, "Bo") if number % 2 else ("accept", CLASSES[0], "Bo")
        for number, name in enumerate(order)
    }
    assert read_package(folder).decided == 0
    elsewhere = rslow("review", "import", saved, "-s", f"run.dir={tmp_path}")
    assert (elsewhere.code, "has exported no package" in elsewhere.err) == (6, True)


def test_answers_of_another_package_of_the_same_name_are_not_shown(
    tmp_path: Path, open_chromium: OpenChromium, socket_enabled: None
) -> None:
    """Runs of one seed name packages and samples alike; a package that was moved is the same."""
    browser = open_chromium()
    first, copied = package(tmp_path / "first", [sample(0), sample(1)]), tmp_path / "copy"
    shutil.copytree(first, copied)
    press(opened(browser, (first / "review.html").as_uri()), "a")
    again = [replace(sample(n), pixels=sample(n + 2).pixels) for n in range(2)]
    for place in (copied, first):
        opened(browser, (place / "review.html").as_uri())
        assert browser.find_element(By.ID, "count").text == "1 of 2 decided"
    shutil.rmtree(first)
    opened(browser, (package(tmp_path / "first", again) / "review.html").as_uri())
    assert browser.find_element(By.ID, "count").text == "0 of 2 decided"


def test_keys_do_what_those_of_the_plugin_do(
    tmp_path: Path, chromium: Chrome, serve: Callable[[Path], Served], socket_enabled: None
) -> None:
    """Undo goes back, N to the next pending one, comments are typed, digits choose."""
    folder = package(tmp_path / "review", [sample(number) for number in range(4)])
    browser = opened(chromium, serve(folder).url)
    first = here(browser)
    press(browser, "1")
    assert rows(folder)[first][:2] == ("accept", CLASSES[1])
    second = here(browser)
    assert second != first
    press(browser, Keys.BACKSPACE)
    assert here(browser) == first
    assert rows(folder)[first][:2] == (None, None)
    assert press(browser, Keys.BACKSPACE) == "There is nothing to undo."
    press(browser, "n")
    assert here(browser) == second
    comment = browser.find_element(By.ID, "comment")
    comment.send_keys("a ru 0", Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda b: "Saved" in b.find_element(By.ID, "saved").text)
    assert rows(folder)[second][0] is None  # what is typed is no key
    press(browser, "u")
    with closing(sqlite3.connect(folder / "review.gpkg")) as database:
        ((text,),) = database.execute(
            "SELECT comment FROM review WHERE sample_id = ?", (second,)
        ).fetchall()
    assert text == "a ru 0"
    assert browser.find_element(By.ID, "opinion").text == ""
    press(browser, Keys.ARROW_LEFT)
    assert here(browser) == second
    said = "The model says: Town, confidence 31 %; then Field; critic's score -0.25."
    assert browser.find_element(By.ID, "opinion").text == said


def test_masks_of_the_model_are_shown_after_the_decision(
    tmp_path: Path, chromium: Chrome, serve: Callable[[Path], Served], socket_enabled: None
) -> None:
    """Before, the page loads no picture of them."""
    folder = package(tmp_path / "review", [masked(0), masked(1)])
    browser = opened(chromium, serve(folder).url)
    masks = browser.find_element(By.ID, "masks")
    assert not masks.is_displayed()
    assert not masks.get_attribute("src")
    press(browser, "a")
    assert not masks.is_displayed()  # of the next sample
    press(browser, Keys.ARROW_LEFT)
    WebDriverWait(browser, 20).until(lambda _: int(str(masks.get_property("naturalWidth"))) > 100)
    assert masks.is_displayed()
    assert str(masks.get_attribute("src")).endswith("/opinions/s0000.png")


def test_notes_are_of_the_sample_decided_last(
    tmp_path: Path, chromium: Chrome, serve: Callable[[Path], Served], socket_enabled: None
) -> None:
    """As in the plugin: comment and realism are of the tile just decided, until one moves on."""
    folder = package(tmp_path / "review", [sample(number) for number in range(12)])
    browser = opened(chromium, serve(folder).url)
    assert browser.find_element(By.ID, "place").text == "01 s0000"
    press(browser, "a", "h")
    assert browser.find_element(By.ID, "place").text == "02 s0001"
    assert browser.find_element(By.ID, "of").text == "Realism of 01"
    assert [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#rate .chosen")] == ["H4"]
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ENTER)
    browser.find_element(By.ID, "comment").send_keys("a note", Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda b: "s0000" in b.find_element(By.ID, "saved").text)
    press(browser, Keys.ARROW_RIGHT, "d")
    assert browser.find_element(By.ID, "of").text == "Realism"
    notes = [(one.comment, one.realism) for one in read_package(folder).answers]
    assert notes[:4] == [("a note", 4), ("", None), ("", 1), ("", None)]
    assert press(browser, "+") == "Brightness 125 %"
    picture = browser.find_element(By.ID, "picture")
    assert picture.value_of_css_property("filter") == "brightness(1.25)"
    height = picture.size["height"]
    browser.find_element(By.TAG_NAME, "body").send_keys(" ")
    assert picture.size["height"] > height


def test_page_and_plugin_have_the_same_keys(tmp_path: Path) -> None:
    """What a reviewer learnt in one works in the other, and the guide says it."""
    folder = package(tmp_path / "review", [sample(0)])
    page = (folder / "review.html").read_text()
    here = set(re.findall(r'command\("\w+", "([^"]+)"', page)) | {*CLASS_KEYS, *"dfghj"}
    plugin = Path(qgis_plugin.__file__).with_name("review.py").read_text()
    names = {"Left": "ArrowLeft", "Right": "ArrowRight", "Return": "Enter", "Space": " ",
             "Plus": "+", "Minus": "-"}  # fmt: skip
    there = re.findall(r"command\(Qt.Key.Key_(\w+), ", plugin)
    there += re.findall(r"    Qt.Key.Key_(\w+): \"", plugin)
    assert {names.get(key, key if len(key) > 1 else key.lower()) for key in there} | {
        *CLASS_KEYS
    } == here
    guide = Path(__file__).parents[1] / "docs" / "pages" / "howto" / "review-in-qgis.md"
    told = " ".join(re.findall(r"^\| (.*?) \|", guide.read_text(), re.MULTILINE))
    words = {"ArrowLeft": "arrow", "ArrowRight": "arrow", " ": "Space"}
    for key in here - set(CLASS_KEYS):
        assert words.get(key, key.upper() if len(key) == 1 else key) in told, key


def test_answers_of_an_older_page_keep_the_score(tmp_path: Path, socket_enabled: None) -> None:
    """A page that knows no realism does not remove the one that QGIS has stored."""
    folder = package(tmp_path / "review", [sample(0)])
    with closing(sqlite3.connect(folder / "review.gpkg")) as database, database:
        database.execute("UPDATE review SET realism = 4")
    with ReviewServer(read_package(folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        answer = {"sample_id": "s0000", "decision": "reject", "reviewed_ms": 5}
        for change, kept in (({}, 4), ({"realism": 2}, 2)):
            content = json.dumps(answer | change).encode()
            request = urllib.request.Request(f"{server.url}answers", content)  # noqa: S310 (ours)
            with urllib.request.urlopen(request, timeout=20) as said:  # noqa: S310 (ours)
                assert json.loads(said.read())["realism"] == kept
        server.shutdown()


def test_masks_are_judged_without_classes(
    tmp_path: Path, chromium: Chrome, serve: Callable[[Path], Served], socket_enabled: None
) -> None:
    """M says that the mask is wrong, and there is no class to choose."""
    folder = package(tmp_path / "review", [masked(number) for number in range(3)])
    browser = opened(chromium, serve(folder).url)
    assert browser.find_elements(By.CSS_SELECTOR, "#choose button") == []
    press(browser, "m", "a")
    decided = [one.decision for one in read_package(folder).answers]
    assert decided == ["mask wrong", "accept", None]


@pytest.mark.parametrize("kind", ["generated", "masks", "observed"])
def test_a_blind_page_tells_nothing_of_models(tmp_path: Path, kind: str) -> None:
    """No condition, prediction, confidence, score, seed or name of a tile is in its source."""
    make: dict[str, Callable[[int], Any]] = {
        "generated": sample, "masks": masked, "observed": observed
    }  # fmt: skip
    samples = [make[kind](number) for number in range(6)]
    folder = package(tmp_path / "review", samples, label="blind")
    text = (folder / "review.html").read_text()
    data = json.loads(re.findall(r'<script id="package"[^>]*>(.*?)</script>', text)[0])
    assert {key for one in data["samples"] for key in one} == {"id", "preview"}
    source = text.replace(json.dumps(data["classes"]), "")
    for one in samples:
        words = [one.tile, *one.provenance.values()]
        if one.prediction is not None:
            words += [percent(one.prediction.confidence, 0), str(one.prediction.confidence)]
        for word in words:
            if len(word) > 2:
                assert word not in source, word
    for name in CLASSES:
        assert source.count(name) == 0, name


def test_the_server_answers_to_its_page_alone(tmp_path: Path, socket_enabled: None) -> None:
    """Other addresses, hosts and sites are refused, and no other file is sent."""
    folder = package(tmp_path / "review", [sample(number) for number in range(2)])
    with ReviewServer(read_package(folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        root = server.url.removesuffix(server.base)

        def ask(url: str, content: bytes | None = None, **headers: str) -> tuple[int, str]:
            request = urllib.request.Request(url, content, headers)  # noqa: S310 (ours)
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 (ours)
                    return answer.status, answer.read().decode(errors="replace")
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        assert ask(server.url)[0] == 200
        assert ask(f"{server.url}previews/s0000.png")[0] == 200
        for path in ("review.gpkg", "manifest.json", "previews/../manifest.json", "previews/x.png"):
            assert ask(f"{server.url}{path}")[0] == 404
        assert ask(f"{root}/")[0] == ask(f"{root}/other/answers")[0] == 403
        assert ask(server.url, Host="evil.example")[0] == 403
        good = {"sample_id": "s0000", "decision": "reject", "reviewed_ms": 5}
        where = f"{server.url}answers"
        assert ask(where, json.dumps(good).encode(), Origin="http://evil.example")[0] == 403
        assert ask(where, b"x" * 200_000)[0] == 413
        for change, why in (
            ({"decision": "maybe"}, "unknown decision"),
            ({"decision": "accept", "true_class": "Moon"}, "unknown class"),
            ({"decision": "accept"}, "accepted without a class"),
            ({"sample_id": "s0009"}, "there is no sample s0009"),
            ({"reviewed_ms": "now"}, "1 validation error"),
            ({"fid": 3}, "1 validation error"),
        ):
            code, said = ask(where, json.dumps({**good, **change}).encode())
            assert (code, why in said) == (400, True), said
        assert {row[0] for row in rows(folder).values()} == {None}
        code, said = ask(where, json.dumps(good).encode(), Origin=root)
        assert (code, json.loads(said)["decision"]) == (200, "reject")
        server.shutdown()
    assert rows(folder)["s0000"][0] == "reject"


@tells("cli/review.py:serve:review import")
def test_what_comes_after_a_review_is_told(
    tmp_path: Path, rslow: Run, monkeypatch: pytest.MonkeyPatch, socket_enabled: None
) -> None:
    """Ctrl-C ends the server; how far the review is, and what to type, is printed."""

    def interrupted(self: ReviewServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ReviewServer, "serve_forever", interrupted)
    store = ReviewStore(tmp_path / "reviews.sqlite")
    folder = published(store, tmp_path / "generate" / "review", [sample(0), sample(1)])
    with closing(sqlite3.connect(folder / "review.gpkg")) as database, database:
        database.execute("UPDATE review SET decision = 'reject', reviewed_ms = 5 WHERE fid = 1")
    ran = rslow("review", "serve", folder, "--no-browser")
    assert ran.code == 0, ran.err
    assert ran.out.count("1 of 2 samples are decided.") == 2
    assert "http://127.0.0.1:" in ran.out
    assert "1 new" in type_printed(ran, "review import").out
    (folder / "review.html").unlink()
    assert "has no review.html" in rslow("review", "serve", folder).err


def test_files_of_answers_are_checked(tmp_path: Path) -> None:
    """Answers of other packages, edited ones and other files are named."""
    folder = package(tmp_path / "review", [sample(number) for number in range(2)])
    read = read_package(folder)
    path = tmp_path / "answers.json"
    one = {"sample_id": "s0000", "decision": "accept", "true_class": "Town", "comment": "",
           "reviewer": "Ada", "reviewed_ms": 7}  # fmt: skip
    good: dict[str, Any] = {"format": 1, "package_id": read.package_id, "answers": [one]}
    path.write_text(json.dumps(good))
    assert package_of_answers(path) == read.package_id
    answer, other = with_answers(read, path).answers
    assert (answer.decision, answer.true_class, answer.reviewer) == ("accept", "Town", "Ada")
    assert other.decision is None
    path.write_text(json.dumps({**good, "format": 2, "answers": [{**one, "realism": 5}]}))
    assert with_answers(read, path).answers[0].realism == 5
    for change, why in (
        ({"package_id": "0" * 16}, "has answers to package 0000"),
        ({"format": 3}, "format 3; expected at most 2"),
        ({"answers": [{**one, "realism": 6}]}, "has the realism 6"),
        ({"answers": [one, one]}, "answered twice"),
        ({"answers": [{**one, "true_class": "Moon"}]}, "unknown class 'Moon'"),
        ({"answers": [{**one, "sample_id": "s0007"}]}, "s0007 is foreign"),
        ({"answers": [{**one, "decision": 3}]}, "is not a file of answers"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(ReviewError, match=re.escape(why)):
            with_answers(read, path)
    path.write_text("{")
    with pytest.raises(ReviewError, match="is not a file of answers"):
        package_of_answers(path)
