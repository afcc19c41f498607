"""Fills the styles of templates: stretches, colours of classes, the form and headings of cells.

The same style goes into the project and into the GeoPackage, so that the form is available however
the layer is opened. It has no Python, because QGIS asks before it trusts a project with macros.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from xml.etree import ElementTree as ET

from rs_lowconf.bands import BandSpec, Composite
from rs_lowconf.colours import Colour
from rs_lowconf.errors import ReviewError, listed
from rs_lowconf.review.composites import ranges_of
from rs_lowconf.review.fields import Field, Label
from rs_lowconf.review.previews import LEGEND, PANEL_ROW
from rs_lowconf.review.project import TEMPLATES, fill, part, template
from rs_lowconf.review.sheet import Sheet

_NULL = "{2839923C-8B7D-419E-B84B-CA2FE9B80EC7}"  # QGIS's value map entry that means NULL
_ANY_ROOM = 10**9
"""Wide cells have room for every name of a class or mask."""


def tile_style(bands: BandSpec, composite: Composite) -> ET.Element:
    """Return the style of a tile; without it QGIS stretches each file individually."""
    style = template("tile.qml")
    renderer = part(style, "pipe/rasterrenderer")
    positions = bands.index_of(composite.bands)
    shown = zip(("red", "green", "blue"), positions, ranges_of(bands, composite), strict=True)
    for colour, position, limits in shown:
        renderer.set(f"{colour}Band", str(position + 1))
        for name, limit in zip(("minValue", "maxValue"), limits, strict=True):
            part(renderer, f"{colour}ContrastEnhancement/{name}").text = str(limit)
    return style


def classes_style(classes: Mapping[str, Colour]) -> ET.Element:
    """Return the style of a mask, with the names of its classes in the legend."""
    style = template("classes.qml")
    palette = part(style, "pipe/rasterrenderer/colorPalette")
    example = part(palette, "paletteEntry")
    palette[:] = [deepcopy(example) for _ in classes]
    for index, (name, colour) in enumerate(classes.items()):
        text = "#{:02x}{:02x}{:02x}".format(*colour)
        palette[index].attrib |= {"value": str(index), "label": name, "color": text}
    return style


def block_titles(label: Label, blocks: int, *, observed: bool = False) -> tuple[str, ...]:
    """Return the titles of the blocks: of the tile to review and of a real one, if any.

    Args:
        label: of the package.
        blocks: 1 or 2.
        observed: whether the tile to review is shown as a real one.
    """
    judged = "SYNTHETIC" if label == "confirm" else "TO JUDGE"
    return ("REAL", "REAL" if observed else judged)[-blocks:]


def aliases_of(layer: ET.Element) -> dict[str, str]:
    """Return how a layer's form calls its columns, by their names."""
    aliases = part(layer, "aliases")
    return {alias.get("field", ""): alias.get("name", "") for alias in aliases}


def fill_form(layer: ET.Element, fields: Sequence[Field], sheet: Sheet, *, observed: bool) -> None:
    """Fit the form of the layer `review` to a package.

    Args:
        layer: of the template, changed in place.
        fields: columns of the layer and those joined to it; all that is said of others is left out.
        sheet: the places, which decide on the height of the preview and the digits of ranks.
        observed: whether the samples are shown as real tiles: then realism is not asked for.

    Raises:
        ReviewError: the template lacks one of the columns.
    """
    known, columns = aliases_of(layer), {field.name for field in fields}
    absent, missing = known.keys() - columns, columns - known.keys()
    if missing:
        raise ReviewError(
            f"the form in {TEMPLATES} has no column {listed(sorted(missing))}",
            expected="the columns of every kind of package",
            remedy="change the template itself in QGIS, not the project of a package",
        )
    if observed:
        alias = part(layer, "aliases/alias[@field='decision']")
        alias.set("name", f"{known['decision']} (reject: cannot be used)")
        part(layer, "attributetableconfig/columns/column[@name='realism']").set("hidden", "1")
        _leave_out({"realism"}, part(layer, "attributeEditorForm"))
    leave_out(layer, dict.fromkeys(absent, "NULL"))
    fill(layer, {"@digits": len(str(sheet.count))})
    for field in fields:
        widget = part(layer, f"fieldConfiguration/field[@name='{field.name}']/editWidget")
        for option in widget.iter("Option"):
            if option.get("name") == "map" and field.choices:
                _offer(field.choices, option)
            if option.get("name") == "DocumentViewerHeight":
                height = PANEL_ROW + LEGEND if field.name == "opinion" else _preview_height(sheet)
                option.set("value", str(height))
        if field.name == "decision":
            for categories in layer.iterfind("renderer-v2/categories"):
                shown = ("", *field.choices)
                categories[:] = [each for each in categories if each.get("value") in shown]


def cover(layer: ET.Element, sheet: Sheet, captions: Sequence[str]) -> None:
    """Let pictures of the tile to judge be seen in decided cells only.

    Args:
        layer: of the template, changed in place.
        sheet: the places.
        captions: of the pictures, which are beside each other; empty for none.
    """
    block = sheet.blocks - 1
    for symbol in layer.iterfind("renderer-v2/symbols/symbol"):
        for covering in symbol.findall("layer[@class='GeometryGenerator']"):
            if not captions:
                symbol.remove(covering)
                continue
            places = [sheet.captions(block).index(caption) for caption in captions]
            left, top = sheet.offset(block, min(places))
            right = sheet.offset(block, max(places))[0] + sheet.width
            # Into the gaps, because a screen rounds edges.
            near, far = sheet.line / 8, sheet.line / 2
            corners = {"@left": left - near, "@top": top - near}
            corners |= {"@right": right + far, "@bottom": top + sheet.height + far}
            fill(covering, corners)


def leave_out(layer: ET.Element, absent: Mapping[str, str]) -> None:
    """Fit a layer of a template to a file that lacks columns.

    Args:
        layer: changed in place.
        absent: for each missing column, what stands for it in expressions, such as NULL.
    """
    _leave_out(absent, layer)
    fill(layer, {f'"{name}"': value for name, value in absent.items()})


def fill_headings(
    layer: ET.Element, sheet: Sheet, titles: Sequence[str], *, alone: bool | None = None
) -> None:
    """Place the headings of cells, which scale with the pictures, by the rules of the template.

    The rules described as `sample` and `block` are for cells with several blocks or with panels,
    and those for `sample alone` and `block alone` for others, into which less text fits. The rule
    `picture` is for captions. In their expressions `@x` and `@y` are where the text begins, right
    of and below the cell's corner, `@line` is the height of a line, `@room` the width of the
    cell, `@text` the text itself; `@title` and `@caption` are texts.

    Args:
        layer: of the template, changed in place.
        sheet: the places.
        titles: of the blocks.
        alone: whether cells take the rules for one block without panels; if missing, those that
            have no more.
    """
    line = sheet.line
    if alone is None:
        alone = sheet.blocks == 1 and not sheet.panels
    narrow = sheet.blocks == 1 or bool(sheet.panels)
    cell = {"@line": line, "@room": sheet.cell_size[0] - 2 * line if narrow else _ANY_ROOM}
    sample = cell | {"@x": line, "@y": round(1.55 * line), "@title": f"'{titles[-1]}'"}
    blocks, pictures = [], []
    for block, title in enumerate(titles):
        x, y = sheet.offset(block, 0)
        blocks.append(cell | {"@x": x, "@y": round(y - 1.2 * line), "@title": f"'{title}'"})
        for place, caption in enumerate(sheet.captions(block)):
            x, y = sheet.offset(block, place)
            where = {"@x": x, "@y": round(y - 0.25 * line), "@caption": f"'{caption}'"}
            pictures.append(cell | where)
    places = {
        "sample": [] if alone else [sample],
        "block": [] if alone else blocks,
        "sample alone": [sample] if alone else [],
        "block alone": blocks if alone else [],
        "picture": pictures,
    }
    rules = part(layer, "labeling/rules")
    placed: list[ET.Element] = []
    for rule in rules:
        for values in places.get(rule.get("description", ""), [{}]):
            heading = deepcopy(rule)
            text = part(heading, "settings/text-style").get("fieldName", "")
            fill(heading, {"@text": text})
            fill(heading, values)
            heading.set("key", f"{{{len(placed)}}}")
            placed.append(heading)
    rules[:] = placed


def _leave_out(columns: Collection[str], element: ET.Element) -> None:
    """Remove all that is said of columns, and tabs of a form that are then empty."""
    for parent in list(element.iter()):
        parent[:] = [child for child in parent if _column(child) not in columns]
    for parent in list(element.iter()):
        parent[:] = [
            child
            for child in parent
            if child.tag != "attributeEditorContainer"
            or any(inner.tag.startswith("attributeEditor") for inner in child)
        ]


def _column(element: ET.Element) -> str | None:
    """Return the column that an element of a style is about."""
    named = element.tag in ("field", "column", "attributeEditorField")
    return element.get("name") if named else element.get("field")


def _offer(choices: Sequence[str], entries: ET.Element) -> None:
    """Offer these values and NULL: known ones by their names in the template, others by theirs."""
    example = deepcopy(entries[0])
    entries[:] = [entry for entry in entries if entry[0].get("value") in (_NULL, *choices)]
    known = {entry[0].get("value") for entry in entries}
    for choice in choices:
        if choice not in known:
            entries.append(deepcopy(example))
            entries[-1][0].attrib |= {"name": choice, "value": choice}


def _preview_height(sheet: Sheet) -> int:
    """Return a height that fits into a window of 768 pixels with the fields above it.

    With 0, QGIS would shrink the picture in a low panel, unreadably.
    """
    if sheet.panels:
        return PANEL_ROW * sheet.blocks + LEGEND
    return (230, 380)[sheet.blocks - 1]
