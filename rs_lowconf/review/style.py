"""Symbols, labels and the form of the cells in QGIS, as elements of its style format (QML).

The same elements go into the project and into the GeoPackage's `layer_styles`, so that the form is
available however the layer is opened. No Python is used, because QGIS asks before it trusts a
project with macros. Attributes that equal QGIS's defaults are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from rs_lowconf.bands import BandSpec, Composite
from rs_lowconf.review.fields import AFTER, JUDGE, Field, Label
from rs_lowconf.review.previews import LEGEND, PANEL_ROW
from rs_lowconf.review.sheet import Sheet

QGIS_VERSION = "3.22.16-Białowieża"
"""The version whose format is written; newer versions read it."""

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"

_NULL = "{2839923C-8B7D-419E-B84B-CA2FE9B80EC7}"  # QGIS's value map entry that means NULL
_COLOURS = {
    "accept": "0,158,70,255",
    "reject": "214,39,40,255",
    "unsure": "240,160,0,255",
    "mixed": "148,80,200,255",
    "mask wrong": "148,80,200,255",
}
_GREY = "110,110,110,255"
_LETTER_WIDTH = 0.7  # mean width of a bold letter by font size, in wide fonts like DejaVu Sans


def document(elements: Sequence[ET.Element]) -> str:
    """Return elements of a style as a QML document."""
    root = ET.Element("qgis", version=QGIS_VERSION, styleCategories="AllStyleCategories")
    root.extend(elements)
    ET.indent(root, " ")
    return DOCTYPE + ET.tostring(root, encoding="unicode") + "\n"


def review_style(
    fields: Sequence[Field], sheet: Sheet, label: Label, *, observed: bool = False
) -> list[ET.Element]:
    """Return symbols, labels and form of the layer `review`.

    Args:
        fields: its columns.
        sheet: the places.
        label: of the package.
        observed: whether the samples are shown as real tiles.
    """
    first, above = _headings(label, sheet, observed=observed)
    (decision,) = (field for field in fields if field.name == "decision")
    colours = {choice: _COLOURS[choice] for choice in decision.choices}
    return [
        outlines("decision", colours, other="pending"),
        headings(sheet, first, above),
        *_fields(fields, sheet),
        *_form(fields),
    ]


def raster_style(bands: tuple[int, int, int], white: int | None) -> list[ET.Element]:
    """Return a colour composite with a fixed stretch.

    Args:
        bands: channels shown as red, green and blue, counted from 1.
        white: the value shown at full brightness; None shows bytes unchanged.
    """
    pipe = ET.Element("pipe")
    red, green, blue = (str(band) for band in bands)
    renderer = ET.SubElement(
        pipe,
        "rasterrenderer",
        type="multibandcolor",
        opacity="1",
        alphaBand="-1",
        redBand=red,
        greenBand=green,
        blueBand=blue,
    )
    if white is not None:
        for colour in ("red", "green", "blue"):
            stretch = ET.SubElement(renderer, f"{colour}ContrastEnhancement")
            ET.SubElement(stretch, "minValue").text = "0"
            ET.SubElement(stretch, "maxValue").text = str(white)
            ET.SubElement(stretch, "algorithm").text = "StretchToMinimumMaximum"
    ET.SubElement(pipe, "rasterresampler", maxOversampling="2")
    return [pipe]


def tile_style(bands: BandSpec, composite: Composite) -> str:
    """Return the QML sidecar of a tile; without it QGIS stretches each file individually."""
    red, green, blue = (position + 1 for position in bands.index_of(composite.bands))
    return document(raster_style((red, green, blue), composite.white_number))


def outlines(attribute: str, colours: Mapping[str, str], *, other: str) -> ET.Element:
    """Return outlines without fill, so that the pictures stay visible.

    Args:
        attribute: the column, or QGIS expression, that decides on a cell's colour.
        colours: red, green, blue and opacity by value.
        other: legend text for all other values, which are grey.
    """
    renderer = ET.Element("renderer-v2", type="categorizedSymbol", attr=attribute)
    categories = ET.SubElement(renderer, "categories")
    symbols = ET.SubElement(renderer, "symbols")
    # The empty value stands for NULL and for all values that are not listed.
    for number, (value, colour) in enumerate([*colours.items(), ("", _GREY)]):
        ET.SubElement(
            categories,
            "category",
            render="true",
            symbol=str(number),
            value=value,
            label=value or other,
            type="string",
        )
        symbol = ET.SubElement(symbols, "symbol", type="fill", name=str(number), alpha="1")
        layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1"})
        outline = {
            "style": "no",
            "outline_color": colour,
            "outline_style": "solid",
            "outline_width": "0.9" if value else "0.4",
            "outline_width_unit": "MM",
            "joinstyle": "miter",
        }
        set_properties(layer, outline)
    return renderer


def set_properties(layer: ET.Element, properties: Mapping[str, str]) -> None:
    """Set the properties of a symbol layer."""
    for name, text in properties.items():
        ET.SubElement(layer, "prop", k=name, v=text)


def headings(sheet: Sheet, first: str, above: Sequence[str]) -> ET.Element:
    """Return headings that scale with the pictures, including their captions.

    Args:
        sheet: the places.
        first: a QGIS expression for a cell's first line.
        above: expressions for the line above each block.
    """
    labeling = ET.Element("labeling", type="rule-based")
    rules = ET.SubElement(labeling, "rules", key="{all}")
    line = sheet.line
    # A sample alone has half the width, into which not every name of a class or mask fits.
    narrow = sheet.blocks == 1 or bool(sheet.panels)
    room = sheet.cell_size[0] - 2 * line if narrow else None
    _add_rule(rules, first, x=line, y=round(1.55 * line), size=1.1 * line, bold=True, room=room)
    for block, heading in enumerate(above):
        x, y = sheet.offset(block, 0)
        y = round(y - 1.2 * line)
        _add_rule(rules, heading, x=x, y=y, size=1.0 * line, bold=True, room=room)
        for place, caption in enumerate(sheet.captions(block)):
            x, y = sheet.offset(block, place)
            _add_rule(
                rules, f"'{caption}'", x=x, y=round(y - 0.25 * line), size=0.8 * line, bold=False
            )
    return labeling


def _headings(label: Label, sheet: Sheet, *, observed: bool) -> tuple[str, list[str]]:
    """Return expressions for a cell's first line and for the lines above its blocks.

    With a real tile the cell is wide enough for all of the sample's text in the first line.
    Otherwise the sample's title follows its name, and suggestion and decision are on the second
    line, where the class of an accepted sample replaces the suggested one. With panels there is
    enough room, too, and no class.
    """
    titles = block_titles(label, sheet.blocks, observed=observed)
    if sheet.panels:
        source = "|| '   mask of ' || \"mask_name\"" if label == "confirm" else ""
        first = f"\"sample_id\" {source} || coalesce('   ' || upper(\"decision\"), '')"
        return first, [f"'{title}'" for title in titles]
    if sheet.blocks == 1:
        answer = 'upper("decision")'
        if label == "confirm":
            answer = f"coalesce(\"cond_class\" || '?   ', '') || coalesce({answer}, '')"
        answer = f'coalesce(upper("decision") || \' \' || "true_class", {answer})'
        return f"\"sample_id\" || '   {titles[0]}'", [answer]
    name = '"sample_id"'
    if label == "confirm":
        name += " || coalesce('   ' || \"cond_class\" || '?', '')"
    name += " || coalesce('   ' || upper(\"decision\") || coalesce(' ' || \"true_class\", ''), '')"
    return name, [f"'{title}'" for title in titles]


def block_titles(label: Label, blocks: int, *, observed: bool = False) -> tuple[str, ...]:
    """Return the titles of the blocks: of the tile to review and of a real one, if any.

    Args:
        label: of the package.
        blocks: 1 or 2.
        observed: whether the tile to review is shown as a real one.
    """
    judged = "SYNTHETIC" if label == "confirm" else "TO JUDGE"
    return ("REAL", "REAL" if observed else judged)[-blocks:]


def _add_rule(
    rules: ET.Element,
    text: str,
    *,
    x: int,
    y: int,
    size: float,
    bold: bool,
    room: int | None = None,
) -> None:
    """Add one label per cell, its left end `x` right of and `y` below the cell's corner.

    Text that would be wider than `room` is drawn smaller; with None it keeps its size.
    """
    rule = ET.SubElement(rules, "rule", key=f"{{{len(rules)}}}")
    settings = ET.SubElement(rule, "settings", calloutType="simple")
    style = ET.SubElement(
        settings,
        "text-style",
        # No font family: QGIS then uses its default, which always exists.
        fieldName=text,
        isExpression="1",
        fontSize=f"{size:g}",
        fontSizeUnit="MapUnit",
        fontWeight="75" if bold else "50",
        textColor="20,20,20,255",
        textOpacity="1",
        multilineHeight="1",
    )
    ET.SubElement(style, "text-buffer", bufferDraw="0")
    ET.SubElement(settings, "text-format", plussign="0", multilineAlign="3")
    ET.SubElement(
        settings,
        "placement",
        placement="1",  # over the point ...
        quadOffset="2",  # ... with its lower left corner
        geometryGenerator=f"make_point(x_min($geometry) + {x}, y_max($geometry) - {y})",
        geometryGeneratorEnabled="1",
        geometryGeneratorType="PointGeometry",
    )
    ET.SubElement(
        settings,
        "rendering",
        drawLabels="1",
        displayAll="1",
        obstacle="0",
        # Text below six pixels cannot be read, so it is hidden.
        fontLimitPixelSize="1",
        fontMinPixelSize="6",
        fontMaxPixelSize="10000",
    )
    if room is not None:
        fitting = f"min({size:g}, {room} / ({_LETTER_WIDTH} * length({text})))"
        properties = {"Size": {"active": True, "expression": fitting, "type": 3}}
        overrides = {"name": "", "properties": properties, "type": "collection"}
        ET.SubElement(settings, "dd_properties").append(_option(None, overrides))


def _fields(fields: Sequence[Field], sheet: Sheet) -> list[ET.Element]:
    """Return widgets, aliases, default values and constraints."""
    widgets = ET.Element("fieldConfiguration")
    aliases = ET.Element("aliases")
    defaults = ET.Element("defaults")
    constraints = ET.Element("constraints")
    expressions = ET.Element("constraintExpressions")
    for index, field in enumerate(fields, start=1):  # 0 is the fid
        kind, config = _widget(field, sheet)
        element = ET.SubElement(widgets, "field", name=field.name, configurationFlags="None")
        widget = ET.SubElement(element, "editWidget", type=kind)
        ET.SubElement(widget, "config").append(_option(None, config))
        ET.SubElement(aliases, "alias", index=str(index), field=field.name, name=field.alias)
        ET.SubElement(
            defaults,
            "default",
            field=field.name,
            expression=field.on_update,
            applyOnUpdate=str(int(bool(field.on_update))),
        )
        ET.SubElement(
            constraints,
            "constraint",
            field=field.name,
            constraints="4" if field.constraint else "0",  # 4: an expression
            exp_strength="1" if field.constraint else "0",  # 1: the form does not save
            notnull_strength="0",
            unique_strength="0",
        )
        ET.SubElement(
            expressions,
            "constraint",
            field=field.name,
            exp=field.constraint,
            desc=field.complaint,
        )
    return [widgets, aliases, defaults, constraints, expressions]


def _widget(field: Field, sheet: Sheet) -> tuple[str, dict[str, Any]]:
    """Return QGIS's name of an edit widget and its configuration."""
    match field.widget:
        case "choice":
            entries = [{"(pending)" if field.name == "decision" else "(none)": _NULL}]
            return "ValueMap", {"map": entries + [{choice: choice} for choice in field.choices]}
        case "range":
            low, high = field.limits
            return "Range", {
                "AllowNull": True,
                "Min": low,
                "Max": high,
                "Precision": 0,
                "Step": 1,
                "Style": "SpinBox",
            }
        case "picture":
            return "ExternalResource", {
                "DocumentViewer": 1,
                # With the fields above it, this fits into a window 768 pixels high. 0 would shrink
                # the picture in a low panel, unreadably.
                "DocumentViewerHeight": PANEL_ROW * sheet.blocks + LEGEND
                if sheet.panels
                else (230, 380)[sheet.blocks - 1],
                "DocumentViewerWidth": 0,  # keeps the shape
                "FileWidget": False,
                "FileWidgetButton": False,
                "RelativeStorage": 1,  # the path starts at the project's folder
                "StorageMode": 0,
                "UseLink": False,
            }
        case "text":
            # In a multi-line field QGIS would show an empty value as the text NULL.
            return "TextEdit", {"IsMultiline": False, "UseHtml": False}


def _form(fields: Sequence[Field]) -> list[ET.Element]:
    """Return the form's tabs, what may be edited, and the columns of the table."""
    layout = ET.Element("editorlayout")
    layout.text = "tablayout"
    form = ET.Element("attributeEditorForm")
    editable = ET.Element("editable")
    table = ET.Element("attributetableconfig", sortExpression="", sortOrder="0")
    columns = ET.SubElement(table, "columns")
    for tab in (JUDGE, AFTER):
        shown = [field for field in fields if field.tab == tab]
        if not shown:
            continue
        container = ET.SubElement(
            form, "attributeEditorContainer", name=tab, columnCount="1", groupBox="0", showLabel="1"
        )
        # Pictures last: in a low window, or a panel below the map, sample, class and decision are
        # visible without scrolling.
        for field in sorted(shown, key=lambda field: field.widget == "picture"):
            ET.SubElement(
                container,
                "attributeEditorField",
                name=field.name,
                index=str(fields.index(field) + 1),
                showLabel="0" if field.widget == "picture" else "1",
            )
    for field in fields:
        ET.SubElement(editable, "field", name=field.name, editable=str(int(field.editable)))
        # The table beside the form is for orientation: decisions, not the model's prediction.
        hidden = field.tab != JUDGE or field.widget == "picture"
        ET.SubElement(
            columns, "column", type="field", name=field.name, hidden=str(int(hidden)), width="-1"
        )
    preview = ET.Element("previewExpression")
    preview.text = "\"sample_id\" || coalesce('  ' || \"decision\", '')"
    return [layout, form, editable, table, preview]


def _option(name: str | None, value: Any) -> ET.Element:
    """Return a value as QGIS's nested <Option> elements."""
    element = ET.Element("Option")
    if name is not None:
        element.set("name", name)
    if isinstance(value, dict):
        element.set("type", "Map")
        element.extend(_option(key, part) for key, part in value.items())
    elif isinstance(value, list):
        element.set("type", "List")
        element.extend(_option(None, part) for part in value)
    else:
        kinds = {bool: ("bool", "true" if value else "false"), int: ("int", str(value))}
        kind, text = kinds.get(type(value), ("QString", str(value)))
        element.set("type", kind)
        element.set("value", text)
    return element
