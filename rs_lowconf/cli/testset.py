"""`rslow testset build | evaluate`: accepted samples as a test set, and its evaluation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.errors import ReviewError, SettingsError
from rs_lowconf.percents import percent
from rs_lowconf.settings import OwnTarget, Settings

if TYPE_CHECKING:
    from rs_lowconf.testset import Release
    from rs_lowconf.types import TargetModel

testset_app = typer.Typer(
    help="Build and use a test set of accepted samples.", no_args_is_help=True
)
app.add_typer(testset_app, name="testset")


@testset_app.command()
def build(
    config: ConfigOption = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The release to write; default is run.dir/testset/v1, v2, ..."),
    ] = None,
    parent: Annotated[
        Path | None,
        typer.Option(help="Release to continue; default is the previous one in its folder."),
    ] = None,
    answers: Annotated[
        int | None,
        typer.Option(help="Use only the store's first N answers, to reproduce a release."),
    ] = None,
) -> None:
    """Write a release of all accepted samples: tiles, labels, provenance, datasheet, STAC.

    A release never changes; the same answers give the same checksums. It continues the previous
    release. Open its release.qgz in QGIS.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.testset import build_release

    release = build_release(settings, out, parent=parent, answers=answers)
    before = "with " if release.pixelwise else ""
    counts = ", ".join(
        f"{sum(name in tile.classes for tile in release.tiles)} {before}{name}"
        for name in release.classes
    )
    used = release.provenance["answers"]
    print(f"{len(release.tiles)} tiles ({counts}): {release.folder}")
    print(f"Checksum {release.checksum}; built from the first {used} answers")
    for caution in release.cautions:
        print(f"Warning: {caution}.")
    print(f"Open in QGIS: {release.folder / 'release.qgz'}")
    hint("Next", "testset evaluate", "--release", release.folder)


@testset_app.command()
def evaluate(
    target: Annotated[
        Path | None,
        typer.Argument(
            help="A network written by rslow train target; default is the settings' target."
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    release: Annotated[
        Path | None,
        typer.Option(help="Folder of a release; default is the newest in run.dir/testset."),
    ] = None,
    trust_code: TrustOption = False,
) -> None:
    """Measure a target on a release, by class and round, with 95 % intervals.

    The tiles are synthetic and were searched for low confidence of one target: these figures do not
    estimate accuracy in the field and must not be averaged with figures on real data. A target
    whose classes have other names needs target.class_map. Writes run.dir/testset-RELEASE.json.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.runs import write_json
    from rs_lowconf.testset import evaluate_release, read_release
    from rs_lowconf.workflows.testset import releases_in

    where = release
    if where is None:
        known = releases_in(settings.run.dir / "testset")
        if not known and settings.testset.licence is None:
            raise ReviewError(
                f"there is no release in {settings.run.dir / 'testset'}",
                remedy="give one with --release, or set testset.licence and build one",
            )
        if not known:
            raise ReviewError(
                f"there is no release in {settings.run.dir / 'testset'}",
                remedy="give one with --release",
                command="testset build",
            )
        where = known[-1]
    read = read_release(where)
    loaded = _target(settings, target, read, trust_code=trust_code)
    report = evaluate_release(read, loaded, settings.target.common_names)
    path = settings.run.dir / f"testset-{read.version}.json"
    write_json(path, report)
    print(f"release {read.version}: {report['evaluated']} of {report['tiles']} tiles evaluated")
    if read.pixelwise:
        _tell_pixels(report)
    else:
        for kind in ("class", "round"):
            for name, share in report[f"{kind}_accuracy"].items():
                print(f"  {kind} {name}: {_told(share)}")
        print(f"  all: {_told(report['accuracy'])}")
    print(report["note"])
    print(f"Report: {path}")


def _tell_pixels(report: dict[str, Any]) -> None:
    """Print the figures of a release with masks."""
    for name, value in report["iou"].items():
        print(f"  IoU of {name}: {_between(value, report['iou_95'][name])}")
    for name, part in report["round"].items():
        share = _between(part["pixel_accuracy"], part["pixel_accuracy_95"])
        print(f"  pixels right in round {name}: {share}")
    print(f"  pixels right: {_between(report['pixel_accuracy'], report['pixel_accuracy_95'])}")


def _between(value: float | None, interval: list[float] | None) -> str:
    if value is None or interval is None:
        return "not determined: no pixel is of it, or predicted as it"
    return f"{percent(value, 1)} ({percent(interval[0], 1)} .. {percent(interval[1], 1)})"


def _told(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "no tiles"
    low, high = share["interval_95"]
    return f"{percent(share['value'], 1)} ({percent(low, 1)} .. {percent(high, 1)}) of {share['n']}"


def _target(
    settings: Settings, path: Path | None, release: "Release", *, trust_code: bool
) -> "TargetModel":
    from rs_lowconf.device import choose_device
    from rs_lowconf.places import model_path
    from rs_lowconf.review.geotiff import read_tile
    from rs_lowconf.target.load import load_target

    section = settings.target
    if path is not None and not isinstance(section, OwnTarget):
        raise SettingsError(
            f"{path} is given, but target.kind is {section.kind}",
            remedy="omit the argument and set target.path instead",
        )
    return load_target(
        section,
        path or model_path(settings, "target"),
        trust_code=trust_code,
        tile_size=read_tile(release.tiles[0].path).pixels.shape[-1],
        device=choose_device(settings.run),
    )
