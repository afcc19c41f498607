"""What a user sees of how far a command is."""

import io

import pytest
from rich.console import Console

from rs_lowconf.cli.progress import Reporter, progress


def test_no_time_is_told_before_a_few_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first steps load and compile, and would say far too much; the last one always tells."""
    monkeypatch.setattr("rs_lowconf.cli.progress._SECONDS_BETWEEN_LINES", 0.0)
    with progress("tiles", 5) as reporter:
        for done in range(1, 6):
            reporter.update(done, "found")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        *(f"tiles: {done} of 5. found" for done in (1, 2)),
        *(f"tiles: {done} of 5" for done in (3, 4, 5)),
    ]
    assert all(line.endswith("left. found") for line in lines[2:])
    assert lines[-1] == "tiles: 5 of 5, 0:00:00 left. found"
    with progress("tile", 1) as reporter:
        reporter.update(1)
    assert capsys.readouterr().err == "tile: 1 of 1, 0:00:00 left. \n"


def test_a_bar_tells_no_time_before_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a terminal."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    monkeypatch.setattr("rs_lowconf.cli.progress.Console", lambda stderr: console)
    reporter = Reporter("tiles", 100, 0)
    assert reporter._bar is not None
    texts = []
    for done in range(1, 6):
        reporter.update(done)
        with console.capture() as capture:
            console.print(reporter._bar.get_renderable())
        texts.append(capture.get())
    reporter.close()
    assert ["-:--:--" in text for text in texts[:2]] == [True, True]
    assert all("5/100" in text for text in texts[-1:])
