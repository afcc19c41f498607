"""`rslow batch generate`: hard variants around the real tiles of a catalog."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, load_settings
from rs_lowconf.cli.batch import (
    SchedulerOption,
    batch_app,
    executor_of,
    labels_of,
    print_classes,
    work_on,
)
from rs_lowconf.cli.generate import print_teaching
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import print_left_out, show
from rs_lowconf.errors import SettingsError
from rs_lowconf.percents import percent
from rs_lowconf.places import job_folder
from rs_lowconf.settings import NoData, Settings

if TYPE_CHECKING:
    from rs_lowconf.batch.variants import Written
    from rs_lowconf.models import Models

_CHUNK = 16
"""Tiles of a chunk; each takes seconds."""


@batch_app.command()
def generate(
    config: ConfigOption = None,
    set_: SetOption = None,
    scheduler: SchedulerOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Search for hard variants around every tile of a catalog.

    Each tile is inverted into the generator's latents (encoder and refinement, condition from its
    label or mask), and the search starts around them. Tiles that cannot be reconstructed well are
    reported and get no variants. Variants have the grid of their tile and are marked as synthetic.
    Can be interrupted, killed and run again, like all batch jobs. Results are in
    run.dir/batch/generate: parts/ while it runs, at the end report.html, report.json,
    tiles.parquet, variants.parquet and the review packages with review.qgz and, at the real
    location, context.qgz.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.batch import Job
    from rs_lowconf.batch.choose import chosen_rows
    from rs_lowconf.batch.generate import GenerateWork
    from rs_lowconf.batch.variants import write_variants
    from rs_lowconf.models import load_inversions, load_models
    from rs_lowconf.workflows.catalog import tiles_of

    catalog = tiles_of(settings)
    models = load_models(_for_driver(settings), trust_code=trust_code)
    for_workers = _for_workers(settings, models)
    # Missing inputs are reported before anything begins.
    features = load_inversions(for_workers, models).features
    rows = chosen_rows(catalog, settings.batch, settings.run.seed)
    print_left_out(rows.left_out, len(catalog))
    if not models.generator.condition.pixelwise:
        # For tiles of other classes the condition is found by inversion.
        print_classes(labels_of(catalog), "the generator", models.generator.net.classes)
    folder = job_folder(settings, "generate")
    student = _student(settings, models, folder)
    job = Job(
        folder=folder,
        kind="generate",
        rows=rows,
        work=GenerateWork(
            settings=for_workers,
            trust_code=trust_code,
            student=student,
            models_key=_models_key(for_workers, student),
            kinds=rows.kinds(),
        ),
        chunk_rows=settings.batch.chunk or _CHUNK,
    )
    if work_on(job, executor_of(settings.batch, scheduler)):
        written = write_variants(for_workers, models, rows, folder.absolute(), features)
        _say(written, folder, for_workers)


def _say(written: "Written", folder: Path, settings: Settings) -> None:
    """Print the results."""
    from rs_lowconf.batch.generate import Ending
    from rs_lowconf.cli.generate import print_unanswered

    report = written.report
    for name, count in sorted(report["endings"].items(), key=lambda item: -item[1]):
        print(f"  {count:,} {Ending[name.upper()].value}")
    print_unanswered("around the tiles", report["unanswered"]["by_reason"])
    print(
        f"Reconstructed within the bound, the {percent(settings.variants.inversion.quantile, 0)} "
        "quantile of distances between real tiles of the class: "
        f"{percent(report['share_within_bound'], 0)} of tiles "
        f"({percent(report['share_within_pixel_bound'], 0)} by pixels, "
        f"{percent(report['share_within_feature_bound'], 0)} by features)."
    )
    for name, numbers in report["by_class"].items():
        print(
            f"  {name}: {percent(numbers['share_within_bound'], 0)} of {numbers['tiles']:,} tiles "
            f"within the bound, {numbers['variants']:,} variants"
        )
    print(f"{report['variants']:,} variants: {folder / 'variants'}, {folder / 'variants.parquet'}")
    print(f"Real, reconstructed, variants: {folder / 'sheet.png'}")
    print(f"Report: {folder / 'report.html'} and report.json")
    if written.package is None:
        return
    if report["shown"] < report["variants"]:
        print(
            f"The review package shows {report['shown']:,} of them, from as many tiles as possible."
        )
    print(f"Open in QGIS: {written.package / 'review.qgz'}")
    print(f"At their location, also in QGIS: {written.package / 'context.qgz'}")
    hint("Then", "review import", written.package)


def _for_driver(settings: Settings) -> Settings:
    """Return the settings; with data only if a quantile of their confidence is needed."""
    if settings.search.tau_quantile is not None:
        return settings
    return settings.model_copy(update={"data": NoData()})


def _for_workers(settings: Settings, models: "Models") -> Settings:
    """Return the settings that make a worker's results equal to the driver's.

    Raises:
        SettingsError: the search method cannot search around a tile.
    """
    from rs_lowconf.models import splits

    if splits(settings.search, models.method):
        raise SettingsError(
            "search.method=splitting cannot search around a tile",
            remedy="set search.method=student, or leave it at auto, with search.mode=yield",
        )
    search = settings.search.model_copy(
        update={"tau": models.tau, "tau_quantile": None, "method": models.method}
    )
    run = settings.run.model_copy(update={"dir": settings.run.dir.absolute()})
    return settings.model_copy(update={"data": NoData(), "search": search, "run": run})


def _student(settings: Settings, models: "Models", folder: Path) -> Path | None:
    """Return the student that guides the search if the target has no gradients."""
    from rs_lowconf.workflows.search import taught

    if models.method != "student":
        return None
    names = (settings.run.seed, models.fingerprint)
    digest = hashlib.sha256(repr(names).encode()).hexdigest()[:16]
    path = folder.absolute() / f"student-{digest}.safetensors"
    print_teaching(settings, models, path)
    show(taught(settings, models, path, models.evaluator))
    return path


def _models_key(settings: Settings, student: Path | None) -> str:
    """Return the checksums of everything that a worker loads."""
    from rs_lowconf.models import known_to_encoder
    from rs_lowconf.places import model_path
    from rs_lowconf.runs import sha256_of
    from rs_lowconf.target.origin import model_file

    paths = [
        *(model_path(settings, name) for name in ("calibration", "encoder", "distances")),
        model_file(settings.target, model_path(settings, "target")),
        student,
    ]
    known = known_to_encoder(settings)
    return f"{known} {[None if path is None else sha256_of(path) for path in paths]}"
