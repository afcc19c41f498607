"""The real QGIS desktop on a display of its own, driven by key presses and clicks."""

import json
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

SIZE = (1366, 768)
"""Of a small laptop's screen."""
F6 = "72"
"""By its code: with the keyboard maps of 2026 (xkb-data 2.48) xdotool adds Alt to its name."""
PATIENCE_S = 600
"""After which QGIS is thought to hang, however busy the machine is."""
WATCH = Path(__file__).parent / "watch.py"


class Desktop:
    """One run of QGIS: what is pressed, and what its window shows."""

    def __init__(self, process: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
        self.process = process
        self._environment = environment

    def press(self, *keys: str) -> None:
        """Press keys one after the other, by their names in X11."""
        # Without a pause Qt takes the second of two equal keys for a repetition of the first.
        self._xdotool("key", "--delay", "20", *keys)

    def type(self, text: str) -> None:
        self._xdotool("type", "--delay", "5", text)

    def click(self, x: int, y: int) -> None:
        self._xdotool("mousemove", str(x), str(y), "click", "1")

    def focus(self, window: int) -> None:
        """Let a window have the keys: there is no window manager."""
        self._xdotool("windowfocus", "--sync", str(window))

    @property
    def shown(self) -> dict[str, Any]:
        """Return what the watcher saw last; empty before it saw anything."""
        file = Path(self._environment["RSLOW_WATCH"])
        content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return content

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until the condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"QGIS ended while waiting until {what}"
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain until {what}; QGIS shows {self.shown}")
            time.sleep(0.05)

    def picture(self, path: Path) -> None:
        """Save what is on the screen."""
        path.parent.mkdir(parents=True, exist_ok=True)
        command = ["import", "-window", "root", str(path)]
        subprocess.run(command, env=self._environment, check=True)

    def kill(self) -> None:
        """End QGIS as a power failure would."""
        self.process.kill()
        self.process.wait()

    def _xdotool(self, *arguments: str) -> None:
        subprocess.run(["xdotool", *arguments], env=self._environment, check=True)


class Form:
    """QGIS's own form of the layer, in the window of the attribute table."""

    def __init__(self, running: Desktop) -> None:
        """Open it for editing."""
        self._running = running
        running.wait(lambda: running.shown["ready"], "a table of the layer can be opened")
        running.press(F6)
        running.wait(lambda: "decision" in (running.shown["table"] or {}), "the form is open")
        self.edit()

    def edit(self) -> None:
        self._running.focus(self._running.shown["table"]["window"])
        # A text field would keep the key for itself, so the empty end of the list gets it.
        below = self._field("mNextFeatureButton")
        self._running.click(below["x"], below["y"] - 40)
        self._running.press("ctrl+e")
        self._running.wait(lambda: self._field("decision")["enabled"], "the form can be edited")

    def wait_for(self, name: str, text: str) -> None:
        self._running.wait(lambda: self._field(name)["text"] == text, f"{name} is {text}")

    def shows(self, name: str) -> bool:
        """Return whether a field is seen whole, without scrolling."""
        return bool(self._field(name)["whole"])

    def click(self, name: str) -> None:
        place = self._field(name)
        self._running.click(place["x"], place["y"])

    def choose(self, name: str, text: str, entry: int) -> None:
        """Choose an entry of a list by the arrow keys; 0 is the one that it shows."""
        self._go_to(name)
        self._running.press(*["Down"] * entry)
        self.wait_for(name, text)

    def write(self, name: str, text: str) -> None:
        """Type a text in the place of what a field shows, "NULL" included."""
        self._go_to(name)
        self._running.press("ctrl+a")
        self._running.type(text)
        self.wait_for(name, text)

    def save(self) -> None:
        """End editing; Enter answers QGIS's question whether to save."""
        self._running.press("ctrl+e")
        self._running.wait(lambda: self._running.shown["focus"] == "QPushButton", "QGIS asks")
        self._running.press("Return")
        self._running.wait(lambda: not self._running.shown["unsaved"], "the edits are saved")

    def _field(self, name: str) -> dict[str, Any]:
        field: dict[str, Any] = self._running.shown["table"][name]
        return field

    def _go_to(self, name: str) -> None:
        """Press Tab, from the first field on, until this one has the keys."""
        if not self._field(name)["focus"]:
            self.click("sample_id")
            self._running.wait(lambda: self._field("sample_id")["focus"], "the form has the keys")
        while not self._field(name)["focus"]:
            before = self._running.shown["focus_at"]
            self._running.press("Tab")
            self._running.wait(partial(self._left, before), "Tab goes to the next field")

    def _left(self, before: object) -> bool:
        return bool(self._running.shown["focus_at"] != before)


@contextmanager
def desktop(
    folder: Path, opened: Path, plugin: Path | None = None, *, docked: bool = False
) -> Iterator[Desktop]:
    """Open a package or a map in QGIS with a fresh profile; end QGIS and the display afterwards.

    Args:
        folder: for profile and temporary files; may be used again for the same profile.
        opened: the review package, or a project.
        plugin: the zip to install; None runs QGIS without plugins.
        docked: whether QGIS opens tables in a panel of its window instead of one of their own;
            QGIS 3.44 does not read this setting any more.
    """
    profile = folder / "profiles" / "default"
    if not profile.exists():
        _write_profile(profile, plugin, docked=docked)
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    watched = folder / "watched.json"
    watched.unlink(missing_ok=True)
    qgis = shutil.which("qgis")
    assert qgis is not None
    read_end, write_end = os.pipe()
    screen = f"{SIZE[0]}x{SIZE[1]}x24"
    display = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_end), "-screen", "0", screen, "-nolisten", "tcp"],
        pass_fds=[write_end],
        stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    process = None
    try:
        # Xvfb chooses a free display and names it once it accepts connections.
        with os.fdopen(read_end) as end:
            number = end.readline().strip()
        assert number, "Xvfb did not start"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {
            # QGIS embeds Python, which takes its home from the first python3 on the PATH.
            "PATH": f"{Path(qgis).parent}:{os.environ['PATH']}",
            "DISPLAY": f":{number}",
            "QT_QPA_PLATFORM": "xcb",
            "TMPDIR": str(folder / "tmp"),
            "XDG_RUNTIME_DIR": str(folder),
            "LC_ALL": "C.UTF-8",
            "RSLOW_WATCH": str(watched),
        }
        arguments = ["--nologo", "--noversioncheck", "--profiles-path", str(folder)]
        with (folder / "qgis.log").open("wb") as log:
            project = opened / "review.qgz" if opened.is_dir() else opened
            process = subprocess.Popen(
                [qgis, *arguments, "--code", str(WATCH), "--project", str(project)],
                env=environment,
                stdout=log,
                stderr=log,
            )
        running = Desktop(process, environment)
        running.wait(lambda: running.shown.get("opened"), "the project is open")
        running.focus(running.shown["window"])
        yield running
    finally:
        for started in (process, display):
            if started is not None and started.poll() is None:
                started.kill()
                started.wait()


def _write_profile(profile: Path, plugin: Path | None, *, docked: bool) -> None:
    """Write settings that keep tips, news and questions off the screen."""
    settings = profile / "QGIS" / "QGIS3.ini"
    settings.parent.mkdir(parents=True)
    text = (
        "[qgis]\n"
        "showTips=false\nshowTips316=false\nshowTips322=false\n"
        "checkVersion=false\nfirstRunVersionFlag=999999\nattributeTableView=1\n"
        f"dockAttributeTable={str(docked).lower()}\n"
        "[core]\nNewsFeed\\httpsfeedqgisorg\\disabled=true\n"
        "[fonts]\ndownloadMissingFonts=false\n"
    )
    if plugin is not None:
        text += "[PythonPlugins]\nrs_lowconf_review=true\n"
        with zipfile.ZipFile(plugin) as archive:
            archive.extractall(profile / "python" / "plugins")
    settings.write_text(text)
