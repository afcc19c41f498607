"""`rslow status`: where the loop of search, review and update stands, and what to type next."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.percents import percent
from rs_lowconf.places import settling_folder
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    from rs_lowconf.workflows.status import LoopStatus


@app.command()
def status(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Show what is trained, generated, reviewed and updated, and what to type next.

    One line per round with the reviewers' decisions; all figures go to run.dir/loop.json.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.runs import write_json
    from rs_lowconf.workflows.status import loop_status

    found = loop_status(settings)
    print(f"Run: {settings.run.dir}")
    missing = f"{', '.join(found.missing)} missing" if found.missing else "complete"
    print(f"Models ({settings.run.models}): {missing}")
    for number, report in found.rounds.items():
        for line in _told(number, report):
            print(line)
    print(f"Updates of the gate: {found.updates or 'none'}")
    if found.rounds:
        path = settings.run.dir / "loop.json"
        rounds = {str(k): v for k, v in found.rounds.items()}
        write_json(path, {"rounds": rounds, "updates": found.updates})
        print(f"All figures: {path}")
    _say_next(settings, found)


def _told(number: int, report: Mapping[str, Any]) -> list[str]:
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
                f"  {percent(share['value'], 1)} ({percent(low, 1)} .. {percent(high, 1)}) {text} "
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
        lines.append(f"  {report['seconds_a_sample']:.0f} s per sample (median)")
    return lines


def _say_next(settings: Settings, status: "LoopStatus") -> None:
    """Print what to type next: the first step of the loop that is not done."""
    if settings.data.masked and settings.run.models == "embedded":
        trained = ("run.models=trained", "target.kind=trained")
        hint("The embedded generator draws no masks; for one that does", "status", set_=trained)
    elif status.missing and settings.data.kind == "none":
        print("Training needs tiles: name them by data.kind and data.root.")
    elif status.missing:
        hint("Next", f"train {status.missing[0]}")
    elif not status.searched:
        hint("Next", "generate", "--name", status.free_name, set_=("review.mode=blind",))
        # One of them may be meant.
        for run in status.elsewhere:
            hint(f"There are packages in {run}", "status", set_=(f"run.dir={run}",))
    elif status.pending is not None:
        folder = status.pending.folder
        print(
            f"{status.pending.samples:,} samples are pending, open in QGIS: {folder / 'review.qgz'}"
        )
        hint("Then", "review import", folder)
    elif status.rounds[status.updates + 1]["disputed"]:
        hint(
            "To settle what reviewers disagree on",
            "review agreement",
            "--export",
            settling_folder(settings),
        )
    else:
        _say_use(settings, status)


def _say_use(settings: Settings, status: "LoopStatus") -> None:
    """Print what a round that is reviewed to its end is good for."""
    if status.few:
        seed = f"run.seed={status.fresh_seed}"
        hint("For more samples", "generate", "--name", status.free_name, set_=(seed,))
    elif not status.fitted and settings.data.kind == "none":
        # An update of such a gate trains on the tiles that it was trained on.
        print(
            "An update needs the tiles that the gate was trained on: name them by data.kind and "
            "data.root."
        )
    else:
        hint("Next", "update")
    if not status.rounds[status.updates + 1]["accepted"]["count"]:
        return
    if settings.testset.licence is None:
        print("For a test set of what was accepted, set testset.licence first.")
    else:
        hint("For a test set of what was accepted", "testset build")
