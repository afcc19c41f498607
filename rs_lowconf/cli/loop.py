"""`rslow loop`: where the loop of search, review and update stands, and what to type next."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.review import masked_package, store_of
from rs_lowconf.places import settling_folder
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    from rs_lowconf.review.store import ReviewStore, SentPackage


@app.command()
def loop(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Show what is trained, generated, reviewed and updated, and what to type next.

    A line a round with what reviewers said; all figures go to run.dir/loop.json.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.places import newest_update
    from rs_lowconf.review.rounds import round_reports
    from rs_lowconf.runs import write_json

    store = store_of(settings)
    rounds = round_reports(store)
    print(f"Run: {settings.run.dir}")
    print(_trained(settings))
    for number, report in rounds.items():
        for line in _told(number, report):
            print(line)
    updates = newest_update(settings)
    print(f"Updates of the gate: {updates or 'none'}")
    if rounds:
        path = settings.run.dir / "loop.json"
        write_json(path, {"rounds": {str(k): v for k, v in rounds.items()}, "updates": updates})
        print(f"All figures: {path}")
    _say_next(settings, store, rounds, updates)


def _trained(settings: Settings) -> str:
    """Return what is there of the models of this run."""
    missing, kind = _missing_models(settings), settings.run.models
    return f"Models ({kind}): " + (f"{', '.join(missing)} missing" if missing else "complete")


def _missing_models(settings: Settings) -> list[str]:
    """Return the stages of training that a search needs and that are not done, in their order."""
    from rs_lowconf.places import model_path

    models = {"target": "target", "extractor": "extractor", "gan": "gan", "gate": "calibration"}
    if settings.target.kind not in ("embedded", "trained"):
        del models["target"]
    if _draws_masks(settings):
        # The gate's critic says which tiles look alike.
        del models["extractor"]
    return [stage for stage, name in models.items() if not model_path(settings, name).exists()]


def _draws_masks(settings: Settings) -> bool:
    """Return whether tiles have masks, by the data or else by the generator."""
    from rs_lowconf.gan.mask_train import MaskGanTraining
    from rs_lowconf.places import model_path
    from rs_lowconf.runs import kind_of

    path = model_path(settings, "gan")
    trained = path.is_file() and kind_of(path) == MaskGanTraining.kind
    return settings.data.masked or trained


def _told(number: int, report: dict[str, Any]) -> list[str]:
    """Return the lines of a round."""
    lines = [
        f"Round {number}: {report['with_a_verdict']} of {report['samples']} samples reviewed, "
        f"{report['disputed']} disputed, {report['unsure']} unsure"
    ]
    for key, text in (
        ("accepted", "of the found samples accepted"),
        ("label_kept", "of the accepted kept the class they were generated for"),
        ("mask_kept", "of the realistic ones show what their mask says"),
        ("audit_rejected", "of those that the gate had rejected were rejected"),
        ("real_rejected", "of the real tiles were taken for fakes"),
    ):
        share = report[key]
        if share["n"]:
            low, high = share["interval_95"]
            lines.append(
                f"  {share['value']:.1%} ({low:.1%} .. {high:.1%}) {text} "
                f"[{share['count']} of {share['n']}]"
            )
    auc = report["gate_auc"]
    if auc is not None:
        low, high = auc["interval_95"]
        lines.append(
            f"  the gate told accepts from rejects with AUC {auc['value']:.2f} "
            f"({low:.2f} .. {high:.2f})"
        )
    if report["seconds_a_sample"] is not None:
        lines.append(f"  {report['seconds_a_sample']:.0f} s a sample (median)")
    return lines


def _say_next(
    settings: Settings, store: "ReviewStore", rounds: dict[int, dict[str, Any]], updates: int
) -> None:
    """Print what to type next: the first step of the loop that is not done."""
    current = [one for one in store.packages() if one.round == updates + 1]
    name = _free_name(settings, f"round-{updates + 1}" if updates else "generate")
    if settings.data.masked and settings.run.models == "embedded":
        trained = ("run.models=trained", "target.kind=trained")
        hint("The embedded generator draws no masks; for one that does", "loop", set_=trained)
        return
    missing = _missing_models(settings)
    if missing and settings.data.kind == "none":
        print("Training needs tiles: name them by data.kind and data.root.")
        return
    if missing:
        hint("Next", f"train {missing[0]}")
        return
    if not current:
        hint("Next", "generate", "--name", name, set_=("review.label=blind",))
        _say_elsewhere(settings, store)
        return
    pending = _pending(settings, store, current)
    if pending is not None:
        number, folder = pending
        print(f"{number:,} samples are pending, open in QGIS: {folder / 'review.qgz'}")
        hint("Then", "review import", folder)
        return
    report = rounds[updates + 1]
    if report["disputed"]:
        hint(
            "To settle what reviewers disagree on",
            "review agreement",
            "--export",
            settling_folder(settings),
        )
        return
    from rs_lowconf.places import model_path
    from rs_lowconf.runs import header_holds
    from rs_lowconf.search.head import MIN_REVIEWS

    # A fitted gate learns from rejects alone and holds what that takes.
    fitted = header_holds(model_path(settings, "calibration"), "fitted")
    counts = [report["rejected"]["count"]]
    counts += [] if fitted else [report["accepted"]["count"]]
    few = min(counts) < MIN_REVIEWS
    masked = masked_package(store) is not None
    # An update of another gate trains on the tiles that it was trained on.
    if not few and not masked and not fitted and settings.data.kind == "none":
        print(
            "An update needs the tiles that the gate was trained on: name them by data.kind and "
            "data.root."
        )
    elif not few and not masked:
        hint("Next", "update")
    else:
        seed = _fresh_seed(settings, current)
        hint("For more samples", "generate", "--name", name, set_=(f"run.seed={seed}",))
    usable = report["accepted"]["count"] and not masked
    if usable and settings.testset.licence is None:
        print("For a test set of what was accepted, set testset.licence first.")
    elif usable:
        hint("For a test set of what was accepted", "testset build")


def _pending(
    settings: Settings, store: "ReviewStore", packages: "list[SentPackage]"
) -> tuple[int, Path] | None:
    """Return the newest package at hand with samples that nobody decided on, and their number."""
    opinions = store.opinions()
    answered = {one.sample_id for one in opinions}
    settled = {one.sample_id for one in opinions if one.settles}
    for package in reversed(packages):
        folder = settings.run.dir / package.folder
        known = settled if package.settles else answered
        number = sum(one.sample_id not in known for one in store.samples(package.package_id))
        if number and folder.exists():
            return number, folder
    return None


def _free_name(settings: Settings, name: str) -> str:
    """Return a name of a search that wrote no package: an interrupted one may go on."""
    number, free = 1, name
    while (settings.run.dir / free / "review").exists():
        number += 1
        free = f"{name}-{number}"
    return free


def _fresh_seed(settings: Settings, packages: "list[SentPackage]") -> int:
    """Return a seed that no search of this round has had: it would find the same again."""
    seeds = [settings.run.seed]
    for package in packages:
        path = (settings.run.dir / package.folder).parent / "settings.yaml"
        if path.is_file():
            seeds.append(yaml.safe_load(path.read_text(encoding="utf-8"))["run"]["seed"])
    return max(seeds) + 1


def _say_elsewhere(settings: Settings, store: "ReviewStore") -> None:
    """Name the runs beside this one that hold packages: one of them may be meant."""
    from rs_lowconf.review.store import STORE

    others = sorted(settings.run.dir.parent.glob(f"*/{STORE}"))
    if not store.packages():
        for path in others:
            hint(f"There are packages in {path.parent}", "loop", set_=(f"run.dir={path.parent}",))
