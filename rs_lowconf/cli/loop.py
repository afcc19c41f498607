"""`rslow loop`: where the loop of search, review and update stands, and what to type next."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    from rs_lowconf.review.store import SentPackage


@app.command()
def loop(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Show what is trained, generated, reviewed and updated, and what to type next.

    A line a round with what reviewers said; all figures go to run.dir/loop.json.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.cli.review import store_of
    from rs_lowconf.places import newest_update
    from rs_lowconf.review.rounds import round_reports
    from rs_lowconf.runs import write_json

    store = store_of(settings)
    rounds = round_reports(store)
    for line in _trained(settings):
        print(line)
    for number, report in rounds.items():
        for line in _told(number, report):
            print(line)
    updates = newest_update(settings)
    print(f"Updates of the gate: {updates or 'none'}")
    if rounds:
        path = settings.run.dir / "loop.json"
        write_json(path, {"rounds": {str(k): v for k, v in rounds.items()}, "updates": updates})
        print(f"All figures: {path}")
    print(f"Next: {_next(settings, store.packages(), rounds, updates)}")


def _trained(settings: Settings) -> list[str]:
    from rs_lowconf.places import model_path

    names = ["target", "extractor", "gan", "critic"]
    if settings.target.kind not in ("embedded", "trained"):
        names.remove("target")
    missing = [name for name in names if not model_path(settings, name).exists()]
    kind = settings.run.models
    return [f"Models ({kind}): " + (f"{', '.join(missing)} missing" if missing else "complete")]


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


def _next(
    settings: Settings,
    packages: "tuple[SentPackage, ...]",
    rounds: dict[int, dict[str, Any]],
    updates: int,
) -> str:
    """Return what to type next."""
    from rs_lowconf.places import model_path
    from rs_lowconf.search.head import MIN_REVIEWS

    for name, command in (
        ("target", "rslow train target"),
        ("extractor", "rslow train extractor"),
        ("gan", "rslow train gan"),
        ("critic", "rslow train gate"),
    ):
        own = name != "target" or settings.target.kind in ("embedded", "trained")
        if own and not model_path(settings, name).exists():
            return command
    current = [one for one in packages if one.round == updates + 1]
    if not current:
        name = "generate" if not updates else f"round-{updates + 1}"
        return f"rslow generate --name {name} --set review.label=blind"
    report = rounds[updates + 1]
    if not report["with_a_verdict"]:
        folder = settings.run.dir / Path(current[-1].folder)
        return f"review {folder / 'review.qgz'} in QGIS, then rslow review import {folder}"
    if report["disputed"]:
        return "rslow review agreement --export FOLDER, to settle what reviewers disagree on"
    found = report["accepted"]
    few = min(found["count"], report["rejected"]["count"]) < MIN_REVIEWS
    # From samples with masks neither updates nor releases are made.
    if few or any(one.pixel_classes for one in current):
        return "review more samples: rslow generate with another --name and run.seed"
    return "rslow update, then rslow testset build"
