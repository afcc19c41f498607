"""Plots of the quality table, and the sheet for a blind look."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rs_lowconf.bands import composites_or_grey
from rs_lowconf.gan.quality import Right, Sets, threshold
from rs_lowconf.gan.spectra import GRID
from rs_lowconf.gan.spectral_quality import mean_power
from rs_lowconf.plot_style import GENERATED, OTHER, REAL, panels
from rs_lowconf.runs import replacing, save_figures
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import TileSource

_COLUMNS, _ROWS = 10, 6
_GAP, _MARGIN, _ENLARGED = 6, 28, 2


def write_plots(
    folder: Path,
    sets: Sets,
    right: Right,
    generated: Mapping[str, Float[Tensor, " _"]],
    held_out: Mapping[str, Float[Tensor, " _"]],
) -> list[Path]:
    """Write the pictures as PNG.

    Args:
        folder: where to.
        sets: of tiles, as the table compares them.
        right: which test tiles each classifier gets right.
        generated: distances of generated tiles to the nearest training tile, by space.
        held_out: the same for real tiles outside the training set.
    """
    figures = {
        "radial_power": _power_figure(sets),
        "class_accuracy": _accuracy_figure(right, sets),
        "memorisation": _memorisation_figure(generated, held_out),
    }
    if sets.test.spectra.indices:
        figures["indices"] = _index_figure(sets)
    return save_figures(folder, figures)


def write_mixed_sheet(path: Path, source: TileSource, seed: int) -> dict[str, Any]:
    """Write generated tiles of shuffled classes without labels, in true colour.

    Without red, green and blue bands another composite is shown, or the first band in grey.

    Returns:
        the key: the composite, and the class and id of the tile at each position.
    """
    composite = composites_or_grey(source.bands)[0]
    names, white = composite.bands, composite.white
    rng = torch.Generator().manual_seed(seed_of(seed, "mixed sheet"))
    chosen = torch.randperm(len(source), generator=rng)[: _COLUMNS * _ROWS].tolist()
    tiles = source.batch(chosen)
    shown = (tiles.image[:, list(source.bands.index_of(names))] / white).clamp(0, 1)
    pixels = (shown * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    side = pixels.shape[1] * _ENLARGED
    rows = -(-len(chosen) // _COLUMNS)
    size = (_MARGIN + _COLUMNS * (side + _GAP), _MARGIN + rows * (side + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column in range(_COLUMNS):
        left = _MARGIN + column * (side + _GAP) + side // 2
        draw.text((left, _MARGIN // 2), str(column + 1), fill="black", font=font, anchor="mm")
    key = {}
    for number, (tile, index) in enumerate(zip(pixels, chosen, strict=True)):
        row, column = divmod(number, _COLUMNS)
        left, top = _MARGIN + column * (side + _GAP), _MARGIN + row * (side + _GAP)
        letter = chr(ord("A") + row)
        if column == 0:
            place = (_MARGIN // 2, top + side // 2)
            draw.text(place, letter, fill="black", font=font, anchor="mm")
        picture = Image.fromarray(tile).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, top))
        class_name = source.classes[int(source.labels[index])]
        key[f"{letter}{column + 1}"] = {"class": class_name, "id": source.ids[index]}
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")
    return {"bands": list(names), "white_reflectance": white, "tiles": key}


def _power_figure(sets: Sets) -> Figure:
    bands = sets.bands.names
    columns = min(len(bands), 5)
    rows = -(-len(bands) // columns)
    figure, plots = panels(2.7 * columns, 2.3 * rows + 0.6, rows, columns, sharex=True)
    for i, (name, axes) in enumerate(zip(bands, plots, strict=False)):
        for tiles, title, colour, style in (
            (sets.test, "real, test", REAL, "-"),
            (sets.train, "real, training", OTHER, "--"),
            (sets.generated, "generated", GENERATED, "-"),
        ):
            power = mean_power(tiles)[i].numpy()
            axes.loglog(
                range(1, len(power) + 1), power, color=colour, ls=style, lw=1.5, label=title
            )
        axes.minorticks_off()
        axes.set_title(name, fontsize=10)
    for axes in plots[len(bands) :]:
        axes.set_visible(False)
    figure.supxlabel("cycles per tile", fontsize=10)
    figure.supylabel("power", fontsize=10)
    lines, titles = plots[0].get_legend_handles_labels()
    figure.legend(lines, titles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _index_figure(sets: Sets) -> Figure:
    names = list(sets.test.spectra.indices)
    figure, plots = panels(4.0 * len(names), 3.2, 1, len(names))
    step = 20
    edges = GRID[::step].numpy()
    for name, axes in zip(names, plots, strict=True):
        for tiles, title, colour in (
            (sets.test, "real, test", REAL),
            (sets.generated, "generated", GENERATED),
        ):
            average = (tiles.weights.draws @ tiles.spectra.indices[name]).mean(0)
            share = average[::step].diff().numpy()
            axes.stairs(share, edges, color=colour, fill=True, alpha=0.25)
            axes.stairs(share, edges, color=colour, lw=1.5, label=title)
        axes.set_title(name)
    plots[0].set_ylabel("share of pixels")
    plots[0].legend(frameon=False)
    return figure


def _accuracy_figure(right: Right, sets: Sets) -> Figure:
    views = list(dict.fromkeys(view for view, _ in right))
    # Wide enough for the legend, where there are few classes.
    width, height = max(8.0, 2.5 + 0.75 * len(sets.classes)), 3.1 * len(views)
    figure, plots = panels(width, height, len(views), sharex=True)
    places = np.arange(len(sets.classes) + 1)
    for view, axes in zip(views, plots, strict=True):
        for i, (name, title, colour) in enumerate(
            (
                ("real", "real", REAL),
                ("generated", "generated", GENERATED),
                ("gaussian", "Gaussian", OTHER),
            )
        ):
            shares = _class_shares(right[view, name], sets)
            label = f"trained on {title} tiles"
            axes.bar(places + 0.27 * (i - 1), shares, 0.25, color=colour, label=label)
        axes.axhline(1 / len(sets.classes), color="black", lw=1, ls=":", label="chance")
        axes.set_ylim(0, 1)
        axes.set_ylabel("accuracy on real test tiles", fontsize=9)
        axes.set_title(view, fontsize=11)
    plots[-1].set_xticks(places, ["all", *sets.classes], rotation=40, ha="right")
    lines, titles = plots[0].get_legend_handles_labels()
    figure.legend(lines, titles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def _class_shares(right: Bool[Tensor, " n"], sets: Sets) -> list[float]:
    by_class = [
        right[sets.test.labels == k].double().mean().item() for k in range(len(sets.classes))
    ]
    return [right.double().mean().item(), *by_class]


def _memorisation_figure(
    generated: Mapping[str, Float[Tensor, " _"]], held_out: Mapping[str, Float[Tensor, " _"]]
) -> Figure:
    figure, plots = panels(4.5 * len(generated), 3.4, 1, len(generated))
    for (space, distances), axes in zip(generated.items(), plots, strict=True):
        others = held_out[space]
        both = torch.cat([distances, others])
        bins = np.linspace(0, float(torch.quantile(both, 0.995)) * 1.02, 41).tolist()
        for values, title, colour in (
            (others, f"held-out real (n = {len(others):,})", REAL),
            (distances, f"generated (n = {len(distances):,})", GENERATED),
        ):
            weights = np.full(len(values), 1 / len(values))
            axes.hist(
                values.numpy(), bins=bins, weights=weights, color=colour, alpha=0.55, label=title
            )
        axes.axvline(
            threshold(others), color="black", lw=1, ls=":", label="1 % quantile of held-out"
        )
        axes.set_xlabel(f"distance to the nearest training tile, {space}")
        axes.legend(frameon=False, fontsize=8)
    plots[0].set_ylabel("share of tiles")
    return figure
