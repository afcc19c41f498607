"""Tells from the spectra whether bands are in the order that a catalog declares.

Files in the wrong order look right in true colour, because the usual orders agree on blue, green,
red and B08. But reflectance of land changes little from one band to the next in wavelength, and
under a wrong order it jumps.
"""

import numpy as np
from jaxtyping import Float

from rs_lowconf.bands import EUROSAT_ORDER, RESOLUTION_M, TRUE_COLOUR, WAVELENGTH_NM

_ESA = tuple(RESOLUTION_M)
_RED_FIRST = (*TRUE_COLOUR, *(name for name in _ESA if name not in TRUE_COLOUR))
_ORDERS = {
    "B8A after B08, as in ESA products": _ESA,
    "B8A last, as in torchgeo's EuroSAT": EUROSAT_ORDER,
    "red, green and blue first": _RED_FIRST,
    "red and blue exchanged": tuple({"B02": "B04", "B04": "B02"}.get(n, n) for n in _ESA),
    "finest bands first": tuple(sorted(_ESA, key=lambda n: RESOLUTION_M[n])),
    "reversed": _ESA[::-1],
}
#: A jump counts up to this logarithm of a ratio: B10 of L1C is darker than its neighbours #: over
#: any ground.
_MOST = 2.0


def fitting_order(names: tuple[str, ...], medians: Float[np.ndarray, " c"]) -> tuple[str, ...]:
    """Return the usual order of these bands under which a tile's spectrum jumps least.

    Args:
        names: the bands in the declared order; it wins ties.
        medians: digital numbers without offset, in the order of the file.
    """
    usual = [tuple(n for n in order if n in names) for order in _ORDERS.values()]
    logs = np.log(np.maximum(medians, 1.0))
    return min((names, *usual), key=lambda order: _jumps(order, logs))


def said_of(order: tuple[str, ...]) -> str:
    """Return the description of an order that `fitting_order` returned."""
    for words, usual in _ORDERS.items():
        if tuple(n for n in usual if n in order) == order:
            return words
    return " ".join(order)


def _jumps(order: tuple[str, ...], logs: Float[np.ndarray, " c"]) -> float:
    spectrum = logs[[order.index(n) for n in sorted(order, key=lambda n: WAVELENGTH_NM[n])]]
    return float(np.minimum(np.abs(np.diff(spectrum)), _MOST).sum())


def orders_of_b8a(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the other usual orders: B8A after B08 as in ESA products, or last as in EuroSAT.

    These two are confused most often, and most reliably distinguished: near infrared next to
    short-wave infrared.
    """
    orders = [tuple(n for n in order if n in names) for order in (_ESA, EUROSAT_ORDER)]
    return [order for order in orders if order != names]


def smoothness(
    names: tuple[str, ...], order: tuple[str, ...], logs: Float[np.ndarray, "n c"]
) -> Float[np.ndarray, " n"]:
    """Return how much less spectra jump under another order than under the declared one.

    Args:
        names: the bands in the declared order.
        order: the other order.
        logs: logarithms of digital numbers by file and band.
    """
    return np.array([_jumps(names, spectrum) - _jumps(order, spectrum) for spectrum in logs])
