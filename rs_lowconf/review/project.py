"""QGIS projects and styles, recorded from QGIS: loaded from `templates/`, filled and written.

Nothing here knows what a form or a symbol looks like. Every template opens in QGIS: its layers are
in memory, or an empty raster. What a user changes there and saves is in the next package. Only what
differs between packages is filled in:

* titles, extents, and the sources of layers;
* copies of layers, where a package has several of a kind;
* `@marks` in names and expressions; columns that a layer does not have are NULL in expressions.

A sheet has no coordinate system: QGIS then draws it in its pixels without any warning. An invented
one would show a "no transform" warning and suggest a location on Earth.
"""

import re
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from rasterio.crs import CRS

from rs_lowconf.boundary import reading
from rs_lowconf.errors import ReviewError, listed
from rs_lowconf.runs import replacing

TEMPLATES: Final = Path(__file__).parent / "templates"

Bounds = tuple[float, float, float, float]
"""West, south, east and north."""

_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_VIEW = "ProjectViewSettings/DefaultViewExtent"
_OF_AUTHOR = ("homePath", "projectMetadata")
"""What a project tells of who saved it, besides attributes."""
_OF_SOURCE = ("extent", "wgs84extent", "noData")
"""What a layer of a project has from its source."""
_NO_STYLE = ("id", "datasource", "layername", "srs", "provider", *_OF_SOURCE)
"""What a layer of a project has besides its style."""


def template(name: str) -> ET.Element:
    """Return a project or style as QGIS saved it.

    Raises:
        ReviewError: the file is missing or damaged.
    """
    path = TEMPLATES / name
    with reading(path, remedy="save it again in QGIS, or reinstall rs_lowconf", error=ReviewError):
        return ET.parse(path).getroot()  # noqa: S314 (part of this installation)


def part(element: ET.Element, path: str) -> ET.Element:
    """Return what a template has at a path below one of its elements.

    Raises:
        ReviewError: there is nothing.
    """
    found = element.find(path)
    if found is None:
        raise ReviewError(
            f"a template in {TEMPLATES} has no {path}",
            expected="a project or style saved by QGIS",
            remedy="save it again in QGIS, or reinstall rs_lowconf",
        )
    return found


def fill(element: ET.Element, values: Mapping[str, object]) -> None:
    """Replace words, such as `@mark` or `"column"`, in all attributes and texts of an element."""
    if not values:
        return
    words = re.compile(rf"(?:{'|'.join(map(re.escape, values))})(?!\w)")

    def filled(text: str) -> str:
        return words.sub(lambda found: str(values[found[0]]), text)

    for child in element.iter():
        child.attrib = {name: filled(text) for name, text in child.attrib.items()}
        child.text = child.text and filled(child.text)


def document(style: ET.Element) -> str:
    """Return a style as a QML document."""
    return _DOCTYPE + ET.tostring(style, encoding="unicode") + "\n"


def restyle(layer: ET.Element, style: ET.Element) -> None:
    """Give a layer of a project the style of a QML document."""
    replaced = {child.tag for child in style}
    layer[:] = [*(child for child in layer if child.tag not in replaced), *style]


class Project:
    """A project that is being filled."""

    def __init__(self, name: str) -> None:
        """Load a template, without who saved it where and when."""
        self._name = name
        self.root = template(name)
        self._version = self.root.get("version", "")
        self.root.attrib = {"version": self._version}
        self.root[:] = [child for child in self.root if child.tag not in _OF_AUTHOR]
        self._copies = 0
        self.layers = part(self.root, "projectlayers")
        self.tree = part(self.root, "layer-tree-group")

    def layer(self, name: str) -> ET.Element:
        """Return a layer.

        Raises:
            ReviewError: the template has none of this name.
        """
        layers = {layer.findtext("layername", ""): layer for layer in self.layers}
        if name not in layers:
            raise ReviewError(
                f"{TEMPLATES / self._name} has the layers {listed([*layers])}",
                expected=f"one named {name}",
            )
        return layers[name]

    def node(self, layer: ET.Element) -> ET.Element:
        """Return a layer's entry in the list of layers."""
        return part(self.tree, self._place(layer))

    def _place(self, layer: ET.Element) -> str:
        return f".//layer-tree-layer[@id='{layer.findtext('id')}']"

    def style(self, layer: ET.Element) -> ET.Element:
        """Return the style of a layer, to be stored elsewhere."""
        root = ET.Element("qgis", version=self._version, styleCategories="AllStyleCategories")
        root.extend(child for child in layer if child.tag not in _NO_STYLE)
        return root

    def connect(
        self, layer: ET.Element, source: str, provider: str, crs: str | None = None
    ) -> None:
        """Let a layer show another file, whether it is listed or not.

        Args:
            layer: of this project.
            source: relative to the project, such as `./scores.gpkg|layername=scores`.
            provider: `ogr` or `gdal`.
            crs: authority code or WKT; None keeps that of the template.
        """
        layer[:] = [child for child in layer if child.tag not in _OF_SOURCE]
        part(layer, "datasource").text, part(layer, "provider").text = source, provider
        for node in self.tree.iterfind(self._place(layer)):
            node.attrib |= {"source": source, "providerKey": provider}
        if crs is not None:
            _refer(part(layer, "srs/spatialrefsys"), crs)

    def copy(self, layer: ET.Element, name: str) -> ET.Element:
        """Return a copy of a layer by another name, listed and drawn right above it."""
        copied, node = deepcopy(layer), self.node(layer)
        # QGIS silently ignores layers whose id has ten characters or fewer.
        self._copies += 1
        identifier = f"layer_{self._copies:05d}_copied"
        part(copied, "id").text, part(copied, "layername").text = identifier, name
        self.layers.append(copied)
        group = next(group for group in self.tree.iter("layer-tree-group") if node in list(group))
        place = list(group).index(node)
        group.insert(place, deepcopy(node))
        group[place].attrib |= {"id": identifier, "name": name}
        return copied

    def write(self, path: Path, title: str, bounds: Bounds, crs: str | None = None) -> None:
        """Write the .qgz, atomically.

        Args:
            path: the file, replaced when it exists.
            title: of the project's window.
            bounds: to which the map is zoomed.
            crs: of the map and of `bounds`; None keeps that of the template.
        """
        if crs is not None:
            for place in ("projectCrs", "mapcanvas/destinationsrs", _VIEW):
                _refer(part(self.root, f"{place}/spatialrefsys"), crs)
        self.root.set("projectname", title)
        part(self.root, "title").text = title
        view = part(self.root, _VIEW)
        for corner, value in zip(_CORNERS, bounds, strict=True):
            view.set(corner, repr(value))
            for element in self.root.iterfind(f"mapcanvas/extent/{corner}"):
                element.text = repr(value)
        text = _DOCTYPE + ET.tostring(self.root, encoding="unicode") + "\n"
        # A fixed date, so that the same package gives the same bytes.
        entry = zipfile.ZipInfo(f"{path.stem}.qgs", date_time=(2000, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(entry, text)


def _refer(reference: ET.Element, crs: str) -> None:
    """Let a part of a project be in another CRS, which QGIS 3.22 reads from WKT only."""
    reference[:] = []
    ET.SubElement(reference, "wkt").text = CRS.from_string(crs).to_wkt()
