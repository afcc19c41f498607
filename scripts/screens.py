"""Makes the pictures of docs/pages/screens.md again: every page, map and form, from small results.

Usage: scripts/screens.py results FOLDER EUROSAT
       scripts/screens.py pages FOLDER OUT [NAME ...]
       scripts/screens.py qgis FOLDER OUT [NAME ...]

`results` searches, scores, estimates, trains and reviews on the tiles of torchgeo's EuroSAT in the
folder EUROSAT; `pages` opens them in Chromium, 1400 x 900 and 400 x 800 pixels; `qgis` opens
copies in the QGIS of this machine, 1366 x 768 pixels, and names the pictures by its version. So
`qgis` runs once on Debian 12 and once on 13. Needs what the tests need: chromium, qgis, Xvfb,
xdotool and ImageMagick. Masks are thresholds of indices; the models for them are barely trained.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By

import rs_lowconf as rl
from rs_lowconf.review.ids import sample_ids
from rs_lowconf.review.plugin import write_plugin
from tests.qgis.desktop import Desktop, Form, desktop

ATTRIBUTION = (
    "EuroSAT (Helber et al. 2019, MIT licence); contains modified Copernicus Sentinel data"
)
CLASSES = """
run: {{dir: classes}}
data: {{kind: eurosat, root: {eurosat}, attribution: "{attribution}"}}
search: {{count: 24}}
estimate: {{budget: 60, experiment: {{repetitions: 20}}}}
evaluate: {{tiles_per_class: 20, reporter: {{width: 16, epochs: 4}},
           classifier: {{width: 16, epochs: 4}}}}
testset: {{licence: CC-BY-4.0}}
"""
MASKS = """
run: {{dir: masks, models: trained}}
data: {{kind: chips, images: chips/images, masks: chips/masks, level: L1C,
       mask_classes: {{0: water, 1: bare or built, 2: vegetation}},
       file_bands: [B01, B02, B03, B04, B05, B06, B07, B08, B09, B10, B11, B12, B8A],
       bands: [B02, B03, B04, B08, B8A, B12], block_size: 2000, val_share: 0.2, test_share: 0.2,
       attribution: "{attribution}"}}
augment: {{cutout: 0.0}}
target: {{kind: trained}}
segmenter: {{encoder: tu-resnet10t, width: 4, epochs: 2, batch_size: 8}}
mask_gan: {{width: 8, critic_width: 8, latent_global: 8, latent_map: 2, images: 640, batch_size: 8,
           learning_rate: 2.0e-3, ema_images: 200, checkpoint_images: 320, sheet_columns: 2}}
gate: {{width: 8, images: 320, ema_images: 100}}
evaluate: {{segmenter: {{encoder: tu-resnet10t, width: 4, epochs: 2, batch_size: 8}}}}
search: {{count: 8, tau: 0.9, slots: 4, micro_batch: 4, max_evaluations: 2000, max_age: 20,
         baseline_evaluations: 20, false_rejection: 0.2, per_cell: null, novelty_quantile: null}}
"""


def make_results(folder: Path, eurosat: Path) -> None:
    """Run everything whose results are shown."""
    folder.mkdir(parents=True)
    # torchgeo has more than the tiles below this folder, so that a link would not do.
    texts = {"classes": CLASSES, "masks": MASKS}
    for name, text in texts.items():
        filled = text.format(eurosat=eurosat.resolve(), attribution=ATTRIBUTION)
        (folder / f"{name}.yaml").write_text(filled)
    write_chips(folder / "chips", eurosat)

    def rslow(config: str, command: str) -> None:
        print(f"rslow {command} --config {config}.yaml", flush=True)
        words = [sys.executable, "-m", "rs_lowconf", *command.split(), "--config", f"{config}.yaml"]
        subprocess.run(words, cwd=folder, check=True)

    def review(package: str, decisions: Sequence[str]) -> None:
        answer(folder / "classes", package, folder / "answers.csv", decisions)
        rslow("classes", "review import answers.csv --reviewer Ada")

    for command in (
        "generate",
        "generate --name blind --set review.mode=blind",
        "catalog build",
        "batch score",
        "batch review --set search.tau=0.8 --set review.max_samples=24",
        "batch generate --set batch.splits=[val] --set batch.per_class=1",
        "estimate experiment",
        "estimate draw --set review.mode=blind",
        "evaluate",
    ):
        rslow("classes", command)
    review("generate/review", ["reject", "accept"])
    review("estimate/draw/wave-1/review", ["accept"])
    for command in ("estimate report", "update", "testset build"):
        rslow("classes", command)
    for command in ("train target", "train gan", "train gate", "evaluate", "generate"):
        rslow("masks", command)


def write_chips(folder: Path, eurosat: Path) -> None:
    """Write tiles with masks: water, vegetation and the rest by thresholds of NDWI and NDVI."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for path in sorted(eurosat.rglob("*.tif")):
        with rasterio.open(path) as file:
            pixels, profile = file.read(), file.profile
        green, red, near = (pixels[index].astype(float) for index in (2, 3, 7))
        water = green - near > 0.05 * (green + near)
        vegetation = near - red > 0.45 * (near + red)
        mask = np.where(water, 0, np.where(vegetation, 2, 1)).astype(np.uint8)
        shutil.copyfile(path, folder / "images" / path.name)
        with rasterio.open(
            folder / "masks" / path.name, "w", **profile | {"count": 1, "dtype": "uint8"}
        ) as file:
            file.write(mask, 1)


def answer(run: Path, package: str, table: Path, decisions: Sequence[str]) -> None:
    """Write a table with an answer to every sample of a package, accepted ones by their class."""
    reviewed = rl.read_review(run / package).to_pandas()
    tiles = pd.read_parquet(run / "batch" / "score" / "scores.parquet", columns=["id", "label"])
    known = dict(zip(sample_ids(0, tiles["id"]), tiles["label"], strict=True))
    for found in run.glob("*/samples.parquet"):
        known |= pd.read_parquet(found).set_index("sample_id")["condition"].to_dict()
    answers = reviewed[["package_id", "sample_id"]].copy()
    wanted = [decisions[number % len(decisions)] for number in range(len(answers))]
    classes = answers["sample_id"].map(known)
    answers["decision"] = np.where(classes.notna(), wanted, "unsure")
    answers["true_class"] = classes.where(answers["decision"] == "accept")
    answers["reviewed"] = "2026-01-01T12:00:00Z"
    answers.to_csv(table, index=False)


@dataclass(frozen=True)
class Screen:
    """One picture: what is opened, and what is done before it is taken."""

    opened: str
    """Below the folder of the results."""
    keys: str = ""
    """Pressed one after the other."""
    view: str = ""
    """In QGIS: `form`, `docked form`, `panel` of the plugin, `identify`, or empty for a map."""


PAGES = {
    "search": Screen("classes/generate/report.html"),
    "search-masks": Screen("masks/generate/report.html"),
    "score": Screen("classes/batch/score/report.html"),
    "variants": Screen("classes/batch/generate/report.html"),
    "evaluate": Screen("classes/evaluate/report.html"),
    "evaluate-masks": Screen("masks/evaluate/report.html"),
    "update": Screen("classes/update-1/report.html"),
    "estimate": Screen("classes/estimate/draw/report.html"),
    "experiment": Screen("classes/estimate/experiment/report.html"),
    "browser": Screen("classes/generate/review/review.html", keys="a3r"),
    "browser-blind": Screen("classes/blind/review/review.html", keys="3r"),
    "browser-masks": Screen("masks/generate/review/review.html", keys="am"),
    "browser-real": Screen("classes/batch/review/review.html", keys="a"),
}
QGIS = {
    "panel": Screen("classes/generate/review", view="panel", keys="a3r"),
    "panel-large": Screen("classes/generate/review", view="panel", keys="a3r "),
    "panel-blind": Screen("classes/blind/review", view="panel", keys="3r"),
    "panel-masks": Screen("masks/generate/review", view="panel", keys="am"),
    "panel-real": Screen("classes/batch/review", view="panel", keys="a"),
    "form": Screen("classes/generate/review", view="form"),
    "form-docked": Screen("classes/generate/review", view="docked form"),
    "form-blind": Screen("classes/blind/review", view="form"),
    "form-masks": Screen("masks/generate/review", view="form"),
    "form-real": Screen("classes/batch/review", view="form"),
    "identify": Screen("classes/generate/review", view="identify"),
    "context-real": Screen("classes/batch/review/context.qgz"),
    "context-variants": Screen("classes/batch/generate/review/context.qgz"),
    "scores": Screen("classes/batch/score/scores.qgz"),
    "release": Screen("classes/testset/v1/release.qgz"),
}
WIDE = """
return [...document.querySelectorAll("html, table")].filter(
    (each) => each.scrollWidth > Math.min(each.clientWidth + 1, arguments[0])
).map((each) => each.textContent.trim().slice(0, 60))"""
SIZES = ((1400, 900), (400, 800))


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").save(path, quality=60, method=6)
    print(path, path.stat().st_size, flush=True)


def picture_pages(folder: Path, out: Path, names: Collection[str]) -> None:
    """Take pictures of pages; says where one has to be scrolled sideways."""
    options = webdriver.ChromeOptions()
    for word in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{word}")
    options.binary_location = str(shutil.which("chromium"))
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        for name in names:
            screen = PAGES[name]
            page = folder / screen.opened
            for number, (width, height) in enumerate(SIZES):
                metrics = {"width": width, "height": height, "mobile": width < 500}
                browser.execute_cdp_cmd(
                    "Emulation.setDeviceMetricsOverride", metrics | {"deviceScaleFactor": 1}
                )
                if number == 0:
                    browser.get(page.resolve().as_uri())
                for key in screen.keys if number == 0 else "":
                    time.sleep(0.5)
                    browser.find_element(By.TAG_NAME, "body").send_keys(key)
                time.sleep(1)
                wide = browser.execute_script(WIDE, width)
                if wide:
                    print(f"{name} is wider than {width} pixels: {wide}")
                picture = Image.open(BytesIO(browser.get_screenshot_as_png()))
                save(picture, out / f"{name}-{width}.webp")


def picture_qgis(folder: Path, out: Path, names: Collection[str]) -> None:
    """Take pictures of projects in the QGIS of this machine, on copies."""
    told = subprocess.run(["qgis", "--version"], capture_output=True, text=True, check=True)
    version = "".join(re.findall(r"QGIS (\d+\.\d+)", told.stdout + told.stderr)[:1])
    with tempfile.TemporaryDirectory(prefix="screens-") as temporary:
        place = Path(temporary)
        plugin = place / "plugin.zip"
        write_plugin(plugin)
        for name in names:
            screen = QGIS[name]
            source = folder / screen.opened
            package = source if source.is_dir() else source.parent
            # Beside the original, so that what it refers to is where it was.
            copy = package.with_name(f"{package.name}-{version}")
            shutil.copytree(package, copy)
            opened = copy if source.is_dir() else copy / source.name
            profile = place / f"profile-{name}"
            used = plugin if screen.view == "panel" else None
            try:
                with desktop(profile, opened, used, docked="docked" in screen.view) as running:
                    show(running, screen)
                    running.picture(place / "shown.png")
            finally:
                shutil.rmtree(copy)
            save(Image.open(place / "shown.png"), out / f"{name}-qgis-{version}.webp")


def show(running: Desktop, screen: Screen) -> None:
    """Do what is done before a picture is taken."""

    def settle() -> None:
        time.sleep(1)
        running.wait(lambda: not running.shown["drawing"], "the map is drawn")
        time.sleep(1)

    running.wait(lambda: running.shown["ready"], "QGIS is ready")
    settle()
    if screen.view == "panel":
        running.wait(lambda: running.shown["dock"], "the panel is open")
        for key in screen.keys:
            running.press({" ": "space"}.get(key, key))
            settle()
    if screen.view.endswith("form"):
        Form(running)
    if screen.view == "identify":
        running.press("ctrl+shift+i")
        running.click(620, 220)
    settle()


def main() -> None:
    part, *words = sys.argv[1:] or [""]
    if part == "results" and len(words) == 2:
        make_results(*map(Path, words))
    elif part in ("pages", "qgis") and len(words) >= 2:
        shown, take = (PAGES, picture_pages) if part == "pages" else (QGIS, picture_qgis)
        folder, names = Path(words[0]), words[2:] or [*shown]
        missing = [name for name in names if not (folder / shown[name].opened).exists()]
        if missing:
            sys.exit(f"{folder} lacks the results for {', '.join(missing)}")
        take(folder, Path(words[1]), names)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
