"""What the gate drops of each kind of tile that is not real, and what it costs in real tiles.

Usage: python scripts/research/gate_power.py OUT --config FILE [--set section.key=value ...]

Fits the gate of a finished generator (run.dir/gan) as `rslow train gate` does, on training tiles,
and measures on validation tiles; the test split is not read. OUT gets power.json, power.md and
sheet.png: of each class, generated tiles that pass on the left and tiles that are dropped on the
right. Nothing in the run changes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from rs_lowconf.device import choose_device
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.model import load_model
from rs_lowconf.gan.negatives import phase_scrambled, shuffled_blocks
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.generators import finish
from rs_lowconf.models import views_of
from rs_lowconf.runs import write_json, write_text
from rs_lowconf.search.fitted import FittedGate, Kind, dropped, judged
from rs_lowconf.search.gate import rank_of
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings, load
from rs_lowconf.stored import as_stored
from rs_lowconf.workflows.fit_gate import fit_gate
from rs_lowconf.workflows.training import open_sources

SHOWN = 8
"""Tiles of each class, passed and dropped, on the sheet."""
MOST_DRAWN = 640
"""Tiles of each class that are drawn to find so many that pass."""
HALVES = 200


def pictures(settings: Settings, fitted: FittedGate, device: torch.device) -> dict[str, Any]:
    """Return the share dropped of changed validation pictures, by the parts of the pictures."""
    first = fitted.stages[0]
    source = next(own for own in open_sources(settings, "val") if own.name == first.name)
    if not source.rendering.eight_bits:
        return {}
    (name,) = {own.view for own in first.parts}
    view = views_of({name: fitted.views[name]}, source.tiles.bands, device)[name]
    report = {}
    for kind, change in (
        ("phase-scrambled", phase_scrambled),
        ("shuffled blocks", shuffled_blocks),
    ):
        parts = []
        for start in range(0, min(len(source.tiles), settings.gate.tiles), 32):
            rows = range(start, min(len(source.tiles), start + 32))
            parts.append(view(change(source.tiles.batch(rows).image, seed_of(0, kind, start))))
        features = torch.cat(parts)
        tiles = Kind(seen={name: features}, labels=source.tiles.labels[: len(features)])
        report[f"validation pictures, {kind}"] = dropped(
            (first,), tiles, settings.search.false_rejection
        )
    return report


def cross_fitted(fitted: FittedGate, permitted: float) -> dict[str, Any]:
    """Return the share of real tiles that stages reject when half of them set the threshold."""
    report = {}
    for own in fitted.stages:
        views = {part.view: _none for part in own.parts}
        joint = own.stage(views, permitted).standardised(own.reference).amin(1)
        rng = torch.Generator().manual_seed(0)
        groups = torch.zeros(len(joint)) if own.labels is None else own.labels
        shares = []
        for _ in range(HALVES):
            order = torch.randperm(len(joint), generator=rng)
            sets, judges = order[: len(joint) // 2], order[len(joint) // 2 :]
            hits = 0
            for k in set(groups.tolist()):
                known = joint[sets][groups[sets] == k].sort().values
                rank = rank_of(permitted * own.share, len(known))
                if rank:
                    hits += int((joint[judges][groups[judges] == k] <= known[rank - 1]).sum())
            shares.append(hits / len(judges))
        report[own.name] = {
            "permitted": permitted * own.share,
            "tiles": len(joint),
            "mean_over_halves": float(np.mean(shares)),
        }
    return report


def _none(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
    raise AssertionError(image.shape)


def sheet(
    settings: Settings, generator: ClassGenerator, fitted: FittedGate, device: torch.device
) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, Any]]:
    """Return passed beside dropped tiles of the generator, one row per class, and their shares."""
    permitted = settings.search.false_rejection
    views = views_of(fitted.views, generator.bands, device)
    rows, shares = [], {}
    for label, name in enumerate(generator.classes):
        passed: list[Tensor] = []
        lost: list[Tensor] = []
        drawn = 0
        while drawn < MOST_DRAWN and min(len(passed), len(lost)) < SHOWN:
            seed = seed_of(settings.run.seed, "gate sheet", label, drawn)
            image = sample(generator, torch.full((32,), label), seed)
            image = as_stored(image)
            tiles = Kind(
                seen={own: view(image) for own, view in views.items()},
                labels=torch.full((32,), label),
            )
            for tile, passes in zip(
                image, judged(fitted.stages, tiles, permitted).passes.tolist(), strict=True
            ):
                (passed if passes else lost).append(tile)
            drawn += 32
        shares[name] = {"drawn": drawn, "passed": len(passed)}
        shown = [
            _strip(own, generator.bands.index_of(("B04", "B03", "B02"))) for own in (passed, lost)
        ]
        rows.append(np.concatenate([shown[0], np.full_like(shown[0][:, :8], 255), shown[1]], 1))
    return np.concatenate(rows), shares


def _strip(tiles: list[Tensor], channels: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the first tiles side by side, grey where there are too few; twice enlarged."""
    side = 64 if not tiles else tiles[0].shape[-1]
    blank = torch.full((len(channels), side, side), 0.1)
    shown = [own[list(channels)] for own in tiles[:SHOWN]]
    shown += [blank] * (SHOWN - len(shown))
    strip = (torch.cat(shown, 2) * 255 / 0.275).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    enlarged: UInt8[np.ndarray, "h w 3"] = strip.repeat(2, 0).repeat(2, 1)
    return enlarged


def table(report: dict[str, Any]) -> str:
    """Return the figures as Markdown."""

    def share(own: dict[str, Any] | None) -> str:
        if own is None:
            return ""
        low, high = own["interval_95"]
        return f"{own['value']:.1%} ({low:.1%} .. {high:.1%}, {own['n']:,})"

    lines = [
        "| kind | fitted | dropped | left out of the fit | by part |",
        "|---|---|---|---|---|",
    ]
    for name, own in report["power"]["kinds"].items():
        parts = ", ".join(f"{part} {count}" for part, count in own["by_part"].items())
        lines.append(
            f"| {name} | {'yes' if own['fitted'] else 'never'} | {share(own)} | "
            f"{share(own.get('left_out_of_the_fit'))} | {parts} |"
        )
    for name, own in report["pictures"].items():
        lines.append(f"| {name} (parts of the pictures alone) | never | {share(own)} | | |")
    lines += ["", "| real tiles | rejected |", "|---|---|"]
    for name, own in report["cross_fitted"].items():
        lines.append(
            f"| {name}, threshold from one half of {own['tiles']:,}, permitted "
            f"{own['permitted']:.1%} | {own['mean_over_halves']:.2%} |"
        )
    power = report["power"]
    for source, classes in power["real_tiles_by_class"].items():
        lines += [f"| {source}, {name} | {share(own)} |" for name, own in classes.items()]
    if "real_tiles_shown_as_pictures" in power:
        lines.append(
            f"| tiles with all bands, shown as pictures | "
            f"{share(power['real_tiles_shown_as_pictures'])} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fit, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[])
    words = parser.parse_args()
    settings = load(words.config, words.set)
    device = choose_device(settings.run)
    gan = load_model(settings.run.dir / "gan" / "gan.safetensors", device)
    sources = open_sources(settings, "train"), open_sources(settings, "val")
    fitted = finish(fit_gate(settings, gan, sources, device))
    picture, shares = sheet(settings, gan.class_generator, fitted, device)
    report = {
        "images": gan.header["images"],
        "power": fitted.power,
        "pictures": pictures(settings, fitted, device),
        "cross_fitted": cross_fitted(fitted, settings.search.false_rejection),
        "sheet": shares,
    }
    words.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(words.out / "sheet.png")
    write_json(words.out / "power.json", report)
    write_text(words.out / "power.md", table(report))
    print(table(report))


if __name__ == "__main__":
    main()
