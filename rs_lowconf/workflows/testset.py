"""Releases of a run's test set: the generated samples that its reviewers accepted."""

from collections.abc import Sequence
from pathlib import Path

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ReviewError, SettingsError
from rs_lowconf.places import model_path
from rs_lowconf.review.geotiff import read_classes
from rs_lowconf.review.reading import read_manifest
from rs_lowconf.review.store import STORE, Opinion, ReviewStore, SentPackage
from rs_lowconf.review.verdicts import agreement, verdicts
from rs_lowconf.runs import kind_of, read_checkpoint
from rs_lowconf.settings import Settings
from rs_lowconf.testset import Release, ReleaseMask, ReleaseTile, read_release, write_release


def build_release(
    settings: Settings,
    folder: Path | None = None,
    *,
    parent: Path | None = None,
    answers: int | None = None,
) -> Release:
    """Write a release of all samples that were accepted, and return it.

    Args:
        settings: of the run; `testset.licence` is required.
        folder: the release; if missing, run.dir/testset/v1, v2 and so on.
        parent: the release that it continues; if missing, the previous one in its folder.
        answers: use only the store's first answers, this many, to reproduce a release.

    Raises:
        SettingsError: no licence is set.
        ReviewError: nothing was accepted, or the package of an accepted mask is missing.
        DataError: a tile or mask was changed since its review, or the parent does not fit.
        ModelError: there is no generator.
        OutputError: the folder exists or cannot be written.
    """
    licence = settings.testset.licence
    if licence is None:
        raise SettingsError(
            "testset.licence is not set",
            expected="the licence under which you publish the tiles",
            remedy="add --set testset.licence=CC-BY-4.0, or another SPDX identifier",
        )
    store = ReviewStore(settings.run.dir / STORE)
    number = store.answers() if answers is None else answers
    # Tiles of a catalog, which belong to no round, are not generated.
    rounds = {one.package_id: one for one in store.packages() if one.round}
    opinions = tuple(opinion for opinion in store.opinions(number) if opinion.package_id in rounds)
    tiles = _accepted(settings, store, [*rounds.values()], opinions)
    if not tiles:
        raise ReviewError(
            "no generated sample was accepted yet",
            remedy="review a package in QGIS and import it",
            command="status",
        )
    where = settings.run.dir / "testset"
    folder = folder or where / f"v{len(releases_in(where)) + 1}"
    # Only earlier ones, or a reproduced release would continue its successor.
    before = [one for one in releases_in(folder.parent) if _order(one) < _order(folder)]
    path = model_path(settings, "gan")
    _, header = read_checkpoint(path, kind_of(path) or "gan")
    agreed = agreement(opinions)
    labels = [one.pixel_classes or one.classes for one in rounds.values()]
    write_release(
        folder,
        tiles,
        classes=tuple(dict.fromkeys(name for classes in labels for name in classes)),
        bands=BandSpec.from_json(header["bands"]),
        attribution=header["attribution"],
        licence=licence,
        provenance={"answers": str(number)},
        parent=parent or (before[-1] if before else None),
        class_map=settings.target.common_names,
        agreement={key: agreed[key] for key in ("alpha_decision", "alpha_decision_and_class")},
    )
    return read_release(folder)


def releases_in(folder: Path) -> list[Path]:
    """Return the releases in a folder in the order of their numbers, then of their names."""
    found = [path.parent for path in folder.glob("[!.]*/release.json")]
    return sorted(found, key=_order)


def _order(release: Path) -> tuple[int, str]:
    """Return a sort key that puts v10 after v9."""
    return len(release.name), release.name


def _accepted(
    settings: Settings,
    store: ReviewStore,
    packages: Sequence[SentPackage],
    opinions: tuple[Opinion, ...],
) -> list[ReleaseTile]:
    """Return the generated samples that reviewers accepted with the same class, or mask."""
    found = verdicts(opinions)
    tiles = {}
    for package in packages:
        accepted = [
            sent
            for sent in store.samples(package.package_id)
            if sent.origin != "real"
            and sent.sample_id in found
            and found[sent.sample_id].decision == "accept"
        ]
        masks = {}
        if accepted and package.pixel_classes:
            masks = _masks(settings.run.dir / package.folder, package.pixel_classes)
        for sent in accepted:
            verdict = found[sent.sample_id]
            # Samples of these rounds are generated.
            assert sent.prediction is not None  # noqa: S101
            tiles[sent.sample_id] = ReleaseTile(
                sample_id=sent.sample_id,
                path=settings.run.dir / sent.tile,
                sha256=sent.sha256,
                class_name=verdict.true_class,
                condition=sent.condition,
                predicted=None if masks else sent.prediction.class_name,
                confidence=sent.prediction.confidence,
                round=package.round,
                reviewers=tuple(name or "unnamed" for name in verdict.reviewers),
                reviewed_ms=verdict.reviewed_ms,
                realism=verdict.realism,
                mask=masks.get(sent.sample_id),
                provenance={**sent.provenance, "origin": sent.origin},
            )
    return list(tiles.values())


def _masks(folder: Path, classes: Sequence[str]) -> dict[str, ReleaseMask]:
    """Return the masks of a package as they were exported, by sample."""
    if not folder.is_dir():
        raise ReviewError(
            f"the review package {folder} is missing, which has the masks of accepted samples",
            remedy="move it back to where it was exported",
        )
    found = {}
    for entry in read_manifest(folder)["samples"]:
        path = folder / entry["mask"]
        values = read_classes(path)
        found[entry["sample_id"]] = ReleaseMask(
            path=path,
            sha256=entry["mask_sha256"],
            classes=tuple(name for k, name in enumerate(classes) if (values == k).any()),
        )
    return found
