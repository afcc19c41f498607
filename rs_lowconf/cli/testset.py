"""`rslow testset build | evaluate`: accepted samples as a test set, and its evaluation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.errors import ReviewError, SettingsError
from rs_lowconf.settings import OwnTarget, Settings

if TYPE_CHECKING:
    from rs_lowconf.review.store import Opinion, ReviewStore
    from rs_lowconf.testset import Release, ReleaseTile
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
    """Write a release of all accepted samples: tiles, classes, provenance, datasheet, STAC.

    A release never changes; the same answers give the same checksums. It continues the previous
    release. Open its release.qgz in QGIS.
    """
    settings = load_settings(config, set_)
    licence = settings.testset.licence
    if licence is None:
        raise SettingsError(
            "testset.licence is not set",
            expected="the licence under which you publish the tiles",
            remedy="add --set testset.licence=CC-BY-4.0, or another SPDX identifier",
        )
    import torch

    from rs_lowconf.cli.review import store_of
    from rs_lowconf.gan.model import load_model
    from rs_lowconf.places import model_path
    from rs_lowconf.review.rounds import refuse_masks
    from rs_lowconf.review.verdicts import agreement
    from rs_lowconf.testset import read_release, write_release

    store = store_of(settings)
    refuse_masks(store)
    number = store.answers() if answers is None else answers
    # Tiles of a catalog, which belong to no round, are not generated.
    rounds = {package.package_id: package.classes for package in store.packages() if package.round}
    opinions = tuple(opinion for opinion in store.opinions(number) if opinion.package_id in rounds)
    tiles = _accepted(settings, store, opinions)
    if not tiles:
        raise ReviewError(
            "no generated sample was accepted yet",
            remedy="review a package in QGIS and import it",
            command="status",
        )
    where = settings.run.dir / "testset"
    folder = out or where / f"v{len(_releases(where)) + 1}"
    # Only earlier ones, or a reproduced release would continue its successor.
    before = [release for release in _releases(folder.parent) if _order(release) < _order(folder)]
    going_on = parent or (before[-1] if before else None)
    gan = load_model(model_path(settings, "gan"), torch.device("cpu"))
    agreed = agreement(opinions)
    write_release(
        folder,
        tiles,
        classes=tuple(dict.fromkeys(name for classes in rounds.values() for name in classes)),
        bands=gan.generator.bands,
        attribution=gan.header["attribution"],
        licence=licence,
        provenance={"answers": str(number)},
        parent=going_on,
        agreement={key: agreed[key] for key in ("alpha_decision", "alpha_decision_and_class")},
    )
    release = read_release(folder)
    counts = ", ".join(
        f"{sum(tile.class_name == name for tile in release.tiles)} {name}"
        for name in release.classes
    )
    print(f"{len(release.tiles)} tiles ({counts}): {release.folder}")
    print(f"Checksum {release.checksum}; built from the first {number} answers")
    print(f"Open in QGIS: {release.folder / 'release.qgz'}")
    hint("Next", "testset evaluate", "--release", release.folder)


@testset_app.command()
def evaluate(
    target: Annotated[
        Path | None,
        typer.Argument(
            help="A classifier written by rslow train target; default is the settings' target."
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
    """Measure a target on a release, by class and round, with exact 95 % intervals.

    The tiles are synthetic and were searched for low confidence of one target: these figures do not
    estimate accuracy in the field and must not be averaged with figures on real data. Writes
    run.dir/testset-RELEASE.json.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.runs import write_json
    from rs_lowconf.testset import evaluate_release, read_release

    where = release
    if where is None:
        known = _releases(settings.run.dir / "testset")
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
    report = evaluate_release(read, _target(settings, target, read, trust_code=trust_code))
    path = settings.run.dir / f"testset-{read.version}.json"
    write_json(path, report)
    print(f"release {read.version}: {report['evaluated']} of {report['tiles']} tiles evaluated")
    for kind in ("class", "round"):
        for name, share in report[f"{kind}_accuracy"].items():
            print(f"  {kind} {name}: {_told(share)}")
    print(f"  all: {_told(report['accuracy'])}")
    print(report["note"])
    print(f"Report: {path}")


def _told(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "no tiles"
    low, high = share["interval_95"]
    return f"{share['value']:.1%} ({low:.1%} .. {high:.1%}) of {share['n']}"


def _releases(folder: Path) -> list[Path]:
    """Return the releases in a folder in the order of their numbers, then of their names."""
    found = [path.parent for path in folder.glob("[!.]*/release.json")]
    return sorted(found, key=_order)


def _order(release: Path) -> tuple[int, str]:
    """Return a sort key that puts v10 after v9."""
    return len(release.name), release.name


def _accepted(
    settings: Settings, store: "ReviewStore", opinions: "tuple[Opinion, ...]"
) -> "list[ReleaseTile]":
    """Return the generated samples that reviewers accepted with the same class."""
    from rs_lowconf.review.verdicts import verdicts
    from rs_lowconf.testset import ReleaseTile

    found = verdicts(opinions)
    tiles = {}
    for package in store.packages():
        for sent in store.samples(package.package_id):
            verdict = found.get(sent.sample_id)
            if sent.origin == "real" or verdict is None or verdict.decision != "accept":
                continue
            # Samples of the rounds that these opinions are of are generated.
            assert sent.prediction is not None  # noqa: S101
            tiles[sent.sample_id] = ReleaseTile(
                sample_id=sent.sample_id,
                path=settings.run.dir / sent.tile,
                sha256=sent.sha256,
                class_name=str(verdict.true_class),
                condition=sent.condition,
                predicted=sent.prediction.class_name,
                confidence=sent.prediction.confidence,
                round=package.round,
                reviewers=tuple(name or "unnamed" for name in verdict.reviewers),
                reviewed_ms=verdict.reviewed_ms,
                realism=verdict.realism,
                provenance={**sent.provenance, "origin": sent.origin},
            )
    return list(tiles.values())


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
