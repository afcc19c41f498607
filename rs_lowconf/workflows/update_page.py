"""The page of an update: what reviewers said, and the gate before and after it learned."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.pages.pictures import tile_picture
from rs_lowconf.pages.rendering import made
from rs_lowconf.pages.result import Part, Result, Tile, write_result
from rs_lowconf.percents import percent
from rs_lowconf.shares import share_of
from rs_lowconf.stored import stored_numbers

MOST = 100
"""Rejected tiles that are shown, accepted ones, and rows of a table."""
_SIDE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Reviewed:
    """A generated tile that reviewers accepted or rejected."""

    name: str
    condition: str
    """The class it was generated for, or the name of its mask."""
    accepted: bool
    image: Float[Tensor, "c h w"]
    """Reflectance."""


def write_update_page(
    folder: Path,
    *,
    answer: str,
    report: Mapping[str, Any],
    tested: Mapping[str, str],
    tiles: Sequence[Reviewed],
    bands: BandSpec,
) -> Path:
    """Write report.html into the folder of an update and return it.

    Args:
        folder: of the update.
        answer: what was learned, in one sentence.
        report: content of report.json.
        tested: the generator, and what it learned from.
        tiles: that were reviewed.
        bands: of the tiles.

    Raises:
        OutputError: it cannot be written.
    """
    gate = report["gate"]
    result = Result(
        title=f"Update {report['update']} of the gate",
        answer=answer,
        tested={**tested, **made()},
        notes=[
            "The tiles were found by a search for low confidence: what reviewers say of them tells "
            "how real they look, and nothing of how often the target is wrong.",
        ],
        parts=[
            _gates(gate["before"], gate["after"]),
            _by_class(tiles),
            _rounds(report["rounds"]),
            *_shown(tiles, bands),
        ],
    )
    return write_result(folder / "report.html", result)


def _gates(before: Mapping[str, Any], after: Mapping[str, Any]) -> Part:
    """Return the gate before and after, with what it costs and what it drops."""
    both = (before, after)
    kinds = [*dict.fromkeys(name for one in both for name in one["power"].get("kinds", {}))]
    rows = [
        ["parts", *(", ".join(one["parts"]) for one in both)],
        [
            "real tiles rejected, at most, on average",
            *(percent(one["joint_false_rejection_at_most"]) for one in both),
        ],
        [
            "held-out real tiles",
            *(", ".join(str(own["held_out_real_tiles"]) for own in one["stages"]) for one in both),
        ],
    ]
    for name in kinds:
        shares = [_share(one["power"].get("kinds", {}).get(name)) for one in both]
        rows.append([f"drops of {name}", *shares])
    text = [] if kinds else ["Which share of generated tiles it drops was not measured."]
    measured_at = after["power"].get("at_false_rejection")
    if measured_at is not None:
        text.append(f"What it drops was measured at a false rejection of {percent(measured_at)}.")
    if after["power"].get("before_reviews"):
        text.append("What it drops was measured before the gate learned from reviews.")
    table = [("", "before", "after"), *rows]
    return Part(title="The gate before and after", text=text, table=table, wide=True)


def _by_class(tiles: Sequence[Reviewed]) -> Part:
    """Return what was accepted and rejected, class by class, most rejected first."""
    counts: dict[str, list[int]] = {}
    for one in tiles:
        counts.setdefault(one.condition, [0, 0])[0 if one.accepted else 1] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1][1], item[0]))
    rows = [
        (name, str(yes), str(no), _share(share_of(no, yes + no)))
        for name, (yes, no) in ordered[:MOST]
    ]
    text = []
    if len(ordered) > MOST:
        text.append(f"The {MOST} of {len(ordered):,} with most rejected tiles.")
    heads = ("generated for", "accepted", "rejected", "share rejected")
    return Part(title="What reviewers said, by class", text=text, table=[heads, *rows])


def _rounds(rounds: Mapping[str, Mapping[str, Any]]) -> Part:
    """Return the figures of all rounds, newest last."""
    rows = []
    for number, one in rounds.items():
        auc, shares = one["gate_auc"], ("accepted", "rejected", "audit_rejected", "real_rejected")
        area = ""
        if auc is not None:
            low, high = auc["interval_95"]
            area = f"{auc['value']:.2f} ({low:.2f} .. {high:.2f})"
        seen = f"{one['with_a_verdict']} of {one['samples']}"
        counts = (str(one["disputed"]), str(one["unsure"]))
        rows.append((number, seen, *(_share(one[name]) for name in shares), *counts, area))
    heads = (
        *("round", "reviewed", "accepted", "rejected", "rejected of those the gate dropped"),
        *("real tiles taken for fakes", "disputed", "unsure", "AUC of the gate"),
    )
    return Part(title="Rounds", table=[heads, *rows], wide=True)


def _shown(tiles: Sequence[Reviewed], bands: BandSpec) -> Iterator[Part]:
    """Yield the rejected tiles and the accepted ones, as many as a page holds."""
    for wanted, word in ((False, "rejected"), (True, "accepted")):
        own = [tile for tile in tiles if tile.accepted is wanted]
        text = [f"The first {MOST} of {len(own):,}."] if len(own) > MOST else []
        cards = [
            Tile(
                title=tile.condition,
                share=word,
                picture=tile_picture(
                    stored_numbers(tile.image).numpy(), bands, tile.name, side=_SIDE
                ),
                lines=[f"{tile.name}, SYNTHETIC"],
            )
            for tile in own[:MOST]
        ]
        if cards:
            yield Part(title=f"Tiles that were {word}", text=text, tiles=cards, wide=True)


def _share(share: Mapping[str, Any] | None) -> str:
    """Return a share with its interval and number; empty where there is none."""
    if share is None or share["value"] is None:
        return ""
    low, high = share["interval_95"]
    return (
        f"{percent(share['value'], 0)} ({percent(low, 0)} .. {percent(high, 0)}) of {share['n']:,}"
    )
