"""Adds up what tiles hold and what is wrong with them, for the checks of data and catalogs."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.mixtures import Finding, Severity, Spectra
from rs_lowconf.data.radiometry import BandRange, BandStatistics, radiometric_warnings


class Tally:
    """Adds up tiles whose digital numbers have one meaning; keeps no pixels."""

    def __init__(self) -> None:
        """Start without a tile."""
        self._statistics: BandStatistics | None = None
        self._spectra: Spectra | None = None
        self._notes: dict[tuple[Severity, str], list[str]] = defaultdict(list)

    @property
    def bands(self) -> BandSpec | None:
        """The bands of the first tile, in whose order all are added; None before it."""
        return self._statistics.bands if self._statistics else None

    @property
    def ranges(self) -> dict[str, BandRange]:
        """Reflectance by band, nodata pixels not counted; empty without a tile."""
        return self._statistics.ranges() if self._statistics else {}

    def note(self, severity: Severity, text: str, name: str) -> None:
        """Note that a file or tile has a problem, which others may have, too."""
        self._notes[severity, text].append(name)

    def add(
        self, bands: BandSpec, numbers: Float[Tensor, "c n"], *, file: str, picture: bool
    ) -> dict[str, float]:
        """Count the pixels of a tile.

        Args:
            bands: of the numbers, in their order.
            numbers: digital numbers of the pixels that are not nodata, one at least.
            file: that the tile is of; files are compared with each other.
            picture: whether it holds 8 bits: each of these is stretched by itself, so that an
                offset of 1000 fits none.

        Returns:
            The number that all pixels have in a band, by band; bands without one are not in it.
        """
        if self._statistics is None or self._spectra is None:
            self._statistics, self._spectra = BandStatistics(bands), Spectra(bands)
        reflectance = (numbers + bands.dn_offset) / bands.scale
        self._statistics.add(reflectance)
        if not picture:
            self._spectra.add(file, reflectance)
        return {
            name: float(band[0])
            for name, band in zip(bands.names, numbers, strict=True)
            if band.min() == band.max()
        }

    def noted(self, severity: Severity) -> Iterator[Finding]:
        """Yield the problems that were noted, in the order of their first tiles."""
        for (noted, text), names in self._notes.items():
            if noted == severity:
                yield Finding(severity=severity, text=text, names=tuple(names))

    def implausible(
        self,
        warnings: Callable[[BandSpec, Mapping[str, BandRange]], list[str]] = radiometric_warnings,
    ) -> Iterator[Finding]:
        """Yield what is wrong with the reflectance of all tiles."""
        for text in warnings(self.bands, self.ranges) if self.bands else ():
            yield Finding(severity="warning", text=text)

    def mixtures(self) -> Iterator[Finding]:
        """Yield the ways in which files differ in what their numbers mean."""
        return self._spectra.mixtures() if self._spectra else iter(())
