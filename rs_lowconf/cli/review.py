"""`rslow review plugin | serve | status | import | agreement`: reviews in QGIS or a browser."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_lowconf.cli import hints
from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.errors import ReviewError
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    from rs_lowconf.review.reading import ReviewedPackage
    from rs_lowconf.review.store import Opinion, ReviewStore

review_app = typer.Typer(
    help="Review in a browser; import and compare reviews.", no_args_is_help=True
)
app.add_typer(review_app, name="review")

PackagesArgument = Annotated[
    list[Path], typer.Argument(help="Folders of review packages.", metavar="PACKAGE...")
]


def store_of(settings: Settings) -> "ReviewStore":
    """Return the review store of a run."""
    from rs_lowconf.review.store import STORE, ReviewStore

    return ReviewStore(settings.run.dir / STORE)


def store_of_package(settings: Settings, reviewed: "ReviewedPackage") -> "ReviewStore":
    """Return the review store of the run that exported a package.

    That is the run whose folder contains the package. A copy elsewhere belongs to the run of the
    settings, which take precedence if the user gave any.
    """
    from rs_lowconf.review.store import STORE, ReviewStore

    named, here = store_of(settings), Path.cwd()
    around = [
        ReviewStore((own.relative_to(here) if own.is_relative_to(here) else own) / STORE)
        for own in reviewed.folder.absolute().parents
        if (own / STORE).is_file()
    ]
    stores = [named, *around] if hints.settings_given() else [*around, named]
    for store in stores:
        if reviewed.package_id in {one.package_id for one in store.packages()}:
            return store
    return named


@review_app.command()
def plugin(
    out: Annotated[Path, typer.Argument(help="The zip to write.")] = Path("rs_lowconf_review.zip"),
) -> None:
    """Write the QGIS plugin for reviewing by single keys.

    In QGIS: Plugins, Manage and Install Plugins, Install from ZIP. Packages can also be reviewed
    without it.
    """
    from rs_lowconf.review.plugin import write_plugin

    write_plugin(out)
    print(f"{out}: in QGIS, Plugins > Manage and Install Plugins > Install from ZIP")


@review_app.command()
def status(packages: PackagesArgument) -> None:
    """Check packages and show the progress of their reviewers."""
    from rs_lowconf.review.reading import read_package

    for folder in packages:
        reviewed = read_package(folder)
        answers = reviewed.answers
        counts = {name: sum(one.decision == name for one in answers) for name in reviewed.decisions}
        names = sorted({one.reviewer or "unnamed" for one in answers if one.decision is not None})
        print(
            f"{folder}: {reviewed.decided} of {len(answers)} decided ("
            + ", ".join(f"{count} {name}" for name, count in counts.items())
            + f") by {', '.join(names) or 'nobody'}; package {reviewed.package_id}, "
            f"{reviewed.label}"
        )


@review_app.command()
def serve(
    package: Annotated[Path, typer.Argument(help="Folder of a package.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Whether to open the browser.")] = True,
) -> None:
    """Review a package in a browser on this machine, with the keys of the QGIS plugin.

    Each decision is written into the package's review.gpkg, durably, before the page says that it
    is saved. Ctrl-C ends it. Without this command, review.html can be opened as a file: it keeps
    decisions in the browser and saves them to a file for rslow review import.
    """
    import webbrowser

    from rs_lowconf.review.browser import ReviewServer
    from rs_lowconf.review.reading import read_package

    reviewed = read_package(package)
    with ReviewServer(reviewed, port) as server:
        print(f"{reviewed.decided} of {len(reviewed.answers)} samples are decided.")
        print(f"Open in a browser on this machine: {server.url}", flush=True)
        print("Ctrl-C ends the review.", flush=True)
        if browser:
            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    decided = read_package(package).decided
    print(f"{decided} of {len(reviewed.answers)} samples are decided.")
    hint("Then", "review import", package)


@review_app.command(name="import")
def import_(
    packages: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of packages, files saved by review.html, or tables of answers (.csv).",
            metavar="PACKAGE...",
        ),
    ],
    config: ConfigOption = None,
    set_: SetOption = None,
    reviewer: Annotated[
        str | None,
        typer.Option(help="Name that replaces the names in the packages."),
    ] = None,
) -> None:
    """Add the answers in packages to the review store of their run.

    The run is found from the location of a package; copies elsewhere need --config or --set
    run.dir=FOLDER. All packages are checked before anything is added. Packages are only read;
    importing one again adds new answers.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.review.reading import read_package

    found = [
        _with_saved_answers(settings, path) if path.is_file() else read_package(path)
        for path in packages
    ]
    stores = [store_of_package(settings, reviewed) for reviewed in found]
    for reviewed, store in zip(found, stores, strict=True):
        added = store.add(reviewed, reviewer)
        print(
            f"{reviewed.folder}: {added.new} new, {added.changed} changed, "
            f"{added.withdrawn} withdrawn, {added.older} older than known, {added.known} known, "
            f"{added.pending} pending"
        )
    for store in {store.path: store for store in stores}.values():
        print(f"Store: {store.path}")
        if any(one.round for one in store.packages()):
            own = store.path.resolve() == store_of(settings).path.resolve()
            hint("Next", "status", set_=() if own else (f"run.dir={store.path.parent}",))


def _with_saved_answers(settings: Settings, path: Path) -> "ReviewedPackage":
    """Return the package of a file of answers, as its run exported it, with these answers."""
    from rs_lowconf.review.answers import package_of_answers, with_answers
    from rs_lowconf.review.reading import read_package

    store, wanted = store_of(settings), package_of_answers(path)
    for package in store.packages():
        if package.package_id == wanted:
            return with_answers(read_package(store.path.parent / package.folder), path)
    raise ReviewError(
        f"the run in {settings.run.dir} has exported no package {wanted}",
        remedy="name its run with --config, or --set run.dir=FOLDER",
    )


@review_app.command()
def agreement(
    packages: Annotated[
        list[Path] | None,
        typer.Argument(help="Copies of packages to compare; default is the whole store."),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Folder for a new package of the samples that reviewers disagree on."),
    ] = None,
) -> None:
    """Show the agreement of reviewers, and export disagreements for a final decision.

    Krippendorff's alpha over all reviewers and Cohen's kappa for every pair, on decisions only and
    including the class. Answers in the exported package override others for its samples.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.review.reading import read_package
    from rs_lowconf.review.verdicts import agreement as measure

    reviewed = [read_package(folder) for folder in packages or ()]
    store = store_of_package(settings, reviewed[0]) if reviewed else store_of(settings)
    opinions = _opinions(reviewed) if reviewed else store.opinions()
    found = measure(opinions)
    for name, count in found["reviewers"].items():
        print(f"{name or 'unnamed'}: {count} answers")
    disagreed = found["samples_disagreed_on"]
    print(
        f"{found['samples_answered_more_than_once']} samples were answered more than once, "
        f"{len(disagreed)} of them differently"
    )
    print(
        f"Krippendorff's alpha: {_told(found['alpha_decision'])} on decisions, "
        f"{_told(found['alpha_decision_and_class'])} with the class"
    )
    for pair in found["kappa"]:
        print(
            f"Cohen's kappa of {' and '.join(n or 'unnamed' for n in pair['reviewers'])}: "
            f"{_told(pair['decision'])} on decisions, {_told(pair['decision_and_class'])} with "
            f"the class ({pair['samples']} samples)"
        )
    if export is None:
        return
    if not disagreed:
        print("Nothing to export: there is no disagreement.", file=sys.stderr)
        return
    _export(settings, store, reviewed, set(disagreed), export)


def _opinions(reviewed: "list[ReviewedPackage]") -> "list[Opinion]":
    """Return the answers of copies; equal names in two copies are two reviewers."""
    from rs_lowconf.review.store import Opinion

    seen: dict[tuple[str, str], ReviewedPackage] = {}
    opinions = []
    for package in reviewed:
        for one in package.answers:
            if one.decision is None:
                continue
            own = seen.setdefault((package.package_id, one.reviewer), package) is package
            opinions.append(
                Opinion(
                    sample_id=one.sample_id,
                    package_id=package.package_id,
                    reviewer=one.reviewer if own else f"{one.reviewer} ({package.folder})",
                    reviewed_ms=one.reviewed_ms,
                    decision=one.decision,
                    true_class=one.true_class,
                    realism=one.realism,
                    comment=one.comment,
                    settles=False,
                )
            )
    return opinions


def _export(
    settings: Settings,
    store: "ReviewStore",
    reviewed: "list[ReviewedPackage]",
    disagreed: set[str],
    folder: Path,
) -> None:
    """Write the samples that reviewers disagree on as a package to settle them."""
    from rs_lowconf.review.settle import settling_package

    sources = reviewed
    if not sources:
        from rs_lowconf.review.reading import read_package

        sources = [
            read_package(where)
            for package in store.packages()
            if (where := store.path.parent / package.folder).exists()
        ]
    count = settling_package(store, sources, disagreed, folder, settings.data.attribution)
    if not count:
        raise ReviewError(
            "no package with the samples that reviewers disagree on was found",
            remedy="give the packages as arguments",
        )
    print(f"{count} samples to settle, open in QGIS: {folder / 'review.qgz'}")
    hint("Then", "review import", folder)


def _told(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
