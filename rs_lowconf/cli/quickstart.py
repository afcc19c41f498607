"""`rslow quickstart`: a search on the embedded models."""

from pathlib import Path
from typing import Annotated

import typer

from rs_lowconf.cli.app import app, load_settings
from rs_lowconf.cli.generate import generate
from rs_lowconf.cli.hints import hint

OutOption = Annotated[Path, typer.Option("--out", help="Folder for the results.")]


@app.command()
def quickstart(out: OutOption = Path("runs/quickstart")) -> None:
    """Find 64 hard samples for the embedded target and write a QGIS review package.

    Needs no data and no network, and takes half a minute on two cores. The same as
    `rslow generate --set run.dir=FOLDER`, but an existing package is kept, because it may contain
    reviews.
    """
    review, given = out / "generate" / "review", [f"run.dir={out}"]
    if review.exists():
        load_settings(None, given)
        print(f"The review package exists already; open in QGIS: {review / 'review.qgz'}")
        hint("Then", "review import", review)
    else:
        generate(set_=given)
    print(f"Without QGIS: see the pictures in {review / 'previews'}")
