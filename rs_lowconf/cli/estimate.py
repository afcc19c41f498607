"""`rslow estimate plan | draw | report`: an honest error rate from few labels."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, load_settings
from rs_lowconf.cli.estimate_pool import (
    DrawFolder,
    Waves,
    draw_folder,
    estimate_app,
    is_labelled,
    labels_of,
    load_pool,
    read_waves,
    say_pool,
    write_report,
)
from rs_lowconf.cli.hints import hint
from rs_lowconf.errors import DataError
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    from rs_lowconf.estimate.report import Labelled
    from rs_lowconf.estimate.stored import Request

FORMAT = 1


NameOption = Annotated[
    str, typer.Option("--name", help="Folder of this draw below run.dir/estimate.")
]


@estimate_app.command()
def plan(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Tell before anyone labels: what sampling can save, and how many labels are needed.

    For each design and defensive share: labels of a uniform draw over those of this one, the
    expected width of the interval at estimate.labels, and the labels for estimate.width. From
    labelled validation units with the range of their bootstrap; without, assuming that the
    target's confidence is calibrated. Writes run.dir/estimate/plan.json and plan.md.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.cli.tables import open_console, show_table
    from rs_lowconf.estimate.describe_plan import SAVING, outlook, plan_page, rows_of
    from rs_lowconf.estimate.plan import METHODS, SHARES
    from rs_lowconf.estimate.plan import plan as plan_labels
    from rs_lowconf.runs import finite, write_json, write_text

    own = settings.estimate
    prepared = load_pool(settings)
    say_pool(prepared)
    told = plan_labels(
        prepared.pool,
        own.labels,
        seed=settings.run.seed,
        validation=prepared.validation,
        width=own.width,
        methods=("olofsson", *METHODS),
        shares=tuple(sorted({*SHARES, own.defensive})),
        level=own.level,
    )
    folder = settings.run.dir / "estimate"
    lines, rows = outlook(told, own.labels, own.width), rows_of(told, wanted=own.width is not None)
    print("\n".join([*lines, ""]))
    show_table(open_console(), SAVING, "l" + "r" * (len(rows[0]) - 1), rows)
    about = {"format": FORMAT, "remark": prepared.remark}
    write_json(folder / "plan.json", {**about, **finite(asdict(told))})
    remark = [prepared.remark] if prepared.remark else []
    write_text(folder / "plan.md", plan_page([*lines, *remark], rows).markdown("plots"))
    print(f"The whole plan: {folder / 'plan.json'}, {folder / 'plan.md'}")


@estimate_app.command()
def draw(
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = "draw",
    trust_code: TrustOption = False,
) -> None:
    """Draw the units to label, with known chances, and write what reviewers open.

    Tiles of a catalog become review packages for QGIS; units of a table become a CSV to fill
    in. A draw is a function of pool and run.seed; it is written down with checksums, and a
    changed file is refused later. The adaptive design is drawn in waves: run this again when a
    wave is labelled (and imported).
    """
    settings = load_settings(config, set_)
    from rs_lowconf.estimate.stored import Request, same_request

    own, folder = settings.estimate, draw_folder(settings, name)
    request = Request(
        design=own.design, labels=own.labels, defensive=own.defensive, seed=settings.run.seed
    )
    if not folder.wave_file(1).exists():
        _first_wave(settings, folder, request)
    waves = read_waves(folder)
    same_request(waves.request, request, folder.path)
    done, total = len(waves.draws), len(request.sizes)
    labelled = is_labelled(settings, folder, waves, done)
    if labelled and done < total:
        _next_wave(settings, folder, waves)
        waves = read_waves(folder)
    elif labelled:
        hint("Drawn and labelled; next", "estimate report", *_naming(name))
        return
    _export(settings, folder, waves, trust_code=trust_code)
    if len(waves.draws) == total:
        hint("Then", "estimate report", *_naming(name))
    else:
        hint("Then", "estimate draw", *_naming(name))


@estimate_app.command()
def report(config: ConfigOption = None, set_: SetOption = None, name: NameOption = "draw") -> None:
    """Say how wrong the target is on the pool, and how sure that is.

    Needs a label for every drawn unit. Writes report.json, report.md with plots/, and
    report.html, one file that needs nothing beside it, into run.dir/estimate/NAME.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.estimate.describe import describe, headline, naive_line, never_line
    from rs_lowconf.estimate.report import report as figures_of
    from rs_lowconf.runs import sha256_of

    folder = draw_folder(settings, name)
    waves = read_waves(folder)
    labelled = _labelled(settings, folder, waves)
    told = figures_of(labelled, settings.estimate.level)
    about = {
        "seed": waves.request.seed,
        "defensive": waves.request.defensive,
        "validated": waves.stored.validated,
        "sha256": {
            path.name: sha256_of(path) for path in (folder.path / "pool.parquet", *folder.existing)
        },
    }
    values = {"format": FORMAT, "draw": about, **told}
    write_report(folder.path, describe(told, about), values)
    print(headline(told))
    for one in told["intervals"]:
        flag = "" if one["reliable"] else "  (covers too seldom: few errors, or heavy ones missing)"
        print(
            f"  {one['method']:16} {100 * one['low']:.3g} .. {100 * one['high']:.3g} %  "
            f"{one['purpose']}{flag}"
        )
    zone = told["blind_spot"]
    print(
        f"{told['errors_found']} errors among {told['labels']:,} labels, which say as much as "
        f"{told['effective_labels']:,.0f} of equal weight. In the {zone['share_of_pool']:.0%} of "
        f"least error probability {zone['errors']} of {zone['labels']:,}: at most "
        f"{100 * zone['at_most']:.3g} % of the pool are errors there."
    )
    print(naive_line(told))
    if told["never_predicted"]:
        print(never_line(told))
    print(f"Report: {folder.path / 'report.html'}, report.md and report.json")


def _first_wave(settings: Settings, folder: DrawFolder, request: "Request") -> None:
    """Write the pool and the first wave."""
    from rs_lowconf.estimate.stored import write_draw, write_pool

    prepared = load_pool(settings)
    say_pool(prepared)
    # What cannot be drawn is refused before anything is written.
    drawn = request.draw(prepared.pool)
    stored = write_pool(folder.path, prepared)
    write_draw(folder.wave_file(1), request, drawn, stored, wave=1, before=None)


def _next_wave(settings: Settings, folder: DrawFolder, waves: Waves) -> None:
    """Draw the next wave by what the labels so far say."""
    from rs_lowconf.estimate.adaptive import Wave
    from rs_lowconf.estimate.stored import write_draw

    labelled = _labelled_waves(settings, folder, waves)
    before = [Wave(draw=one.draw, error=one.error) for one in labelled]
    drawn = waves.request.draw(waves.stored.pool, before)
    number = len(before) + 1
    write_draw(
        folder.wave_file(number),
        waves.request,
        drawn,
        waves.stored,
        wave=number,
        before=waves.checksums[-1],
    )


def _labelled(settings: Settings, folder: DrawFolder, waves: Waves) -> "Labelled":
    """Return the whole draw with its labels."""
    from dataclasses import replace

    import numpy as np

    from rs_lowconf.estimate.adaptive import Wave, joined

    done, total = len(waves.draws), len(waves.request.sizes)
    parts = _labelled_waves(settings, folder, waves)
    if done < total:
        raise DataError(
            f"{done} of {total} waves are drawn",
            expected="all of them: who may stop when the result pleases has a biased one",
            remedy="draw the next",
            command=f"estimate draw --name {shlex.quote(folder.path.name)}",
        )
    if waves.request.design != "adaptive":
        return parts[0]
    whole, _ = joined([Wave(draw=one.draw, error=one.error) for one in parts])
    return replace(parts[0], draw=whole, truth=np.concatenate([one.truth for one in parts]))


def _labelled_waves(settings: Settings, folder: DrawFolder, waves: Waves) -> "list[Labelled]":
    """Return each wave with its labels; units that come again have the label of the first time."""
    import numpy as np
    import pandas as pd

    from rs_lowconf.estimate.report import Labelled
    from rs_lowconf.vocabulary import join, vocabulary

    said: dict[str, str | None] = {}
    for wave in range(1, len(waves.draws) + 1):
        said |= labels_of(settings, folder, waves, wave)
    stored = waves.stored
    named = sorted(name for name in {*said.values()} if name is not None)
    labels = vocabulary(f"the labels of {folder.path}", named)
    classes = join(vocabulary("the pool", stored.classes), labels).either
    number = {name: i for i, name in enumerate(classes)}
    group = None if stored.group is None else pd.factorize(stored.group)[0].astype(np.int64)

    def class_of(index: int) -> int:
        name = said[str(stored.ids[index])]
        return -1 if name is None else number[name]

    return [
        Labelled(
            pool=stored.pool,
            classes=classes,
            draw=one,
            truth=np.array([class_of(index) for index in one.index.tolist()]),
            unclear=settings.estimate.unclear,
            group=group,
        )
        for one in waves.draws
    ]


def _export(settings: Settings, folder: DrawFolder, waves: Waves, *, trust_code: bool) -> None:
    """Write what reviewers open for the newest wave, unless it is there, and name it."""
    wave = len(waves.draws)
    ids = waves.new_ids(wave)
    of = f"Wave {wave} of {len(waves.request.sizes)}: " if len(waves.request.sizes) > 1 else ""
    print(f"{of}{len(waves.draws[-1]):,} labels, {len(ids):,} units to label. {_draw_words(waves)}")
    if folder.source == "table":
        _export_table(settings, folder, wave, ids)
    elif settings.estimate.scores is not None:
        _export_pixels(settings, folder, waves, wave, ids)
    else:
        _export_packages(settings, folder, wave, ids, trust_code=trust_code)


def _export_table(settings: Settings, folder: DrawFolder, wave: int, ids: list[str]) -> None:
    import pandas as pd

    from rs_lowconf.cli.estimate_pool import load_scores
    from rs_lowconf.estimate.stored import write_labels

    path = folder.table(wave)
    if not path.exists():
        scores = load_scores(settings)
        place = pd.Index(scores.ids).get_indexer(ids)
        if (place < 0).any():
            raise DataError(
                f"{scores.path} lacks units that were drawn", remedy="restore that table"
            )
        shown = scores.shown.iloc[place]
        if scores.group is not None:
            shown = shown.assign(group=scores.group[place])
        write_labels(path, ids, shown)
    print(f"Fill in the column label (? where it cannot be told): {path}")


def _export_pixels(
    settings: Settings, folder: DrawFolder, waves: Waves, wave: int, ids: list[str]
) -> None:
    from rs_lowconf.cli.estimate_pixels import write_pixel_packages

    classes = tuple(dict.fromkeys((*waves.stored.classes, *settings.estimate.classes)))
    for package in write_pixel_packages(settings, folder.packages(wave), ids, classes):
        _say_package(package)


def _export_packages(
    settings: Settings, folder: DrawFolder, wave: int, ids: list[str], *, trust_code: bool
) -> None:
    from rs_lowconf.batch.review import scores_of, write_real
    from rs_lowconf.cli.batch import job_folder, target_of
    from rs_lowconf.cli.catalog import tiles_of
    from rs_lowconf.review.ids import sample_ids

    catalog = tiles_of(settings)
    target = target_of(settings, trust_code=trust_code)
    scores = scores_of(catalog, job_folder(settings, "score"), target)
    labels = tuple(sorted({*scores["label"].dropna(), *settings.estimate.classes}))
    own = scores.set_index("id", drop=False)
    lost = [name for name in ids if name not in own.index]
    if lost:
        raise DataError(
            f"{catalog.path} lacks {len(lost)} tiles that were drawn, such as {lost[0]}",
            remedy="restore the catalog and its scores, or draw anew under another --name",
        )
    own = own.loc[ids].assign(sample_id=sample_ids(settings.run.seed, ids))
    # Their order in the draw would tell where the target is unsure.
    own = own.sort_values("sample_id")
    most = settings.review.max_samples
    for first in range(0, len(own), most):
        package = write_real(
            settings,
            catalog,
            own.iloc[first : first + most],
            target,
            into=folder.packages(wave),
            labels=labels,
            provenance={"drawn_for": "an error estimate"},
        )
        _say_package(package)


def _say_package(package: Path) -> None:
    print(f"Open in QGIS: {package / 'review.qgz'}")
    hint("Then", "review import", package)


def _draw_words(waves: Waves) -> str:
    request = waves.request
    if request.design == "uniform":
        return f"Design uniform, seed {request.seed}."
    return (
        f"Design {request.design}, {request.defensive:.0%} of the labels anywhere alike, seed "
        f"{request.seed}."
    )


def _naming(name: str) -> tuple[str, ...]:
    """Return the words by which a command means this draw."""
    return () if name == "draw" else ("--name", name)
