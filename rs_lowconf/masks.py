"""How masks are stored: one whole number per pixel, the index of its class.

Apart from `rs_lowconf.types`, so that review packages are read without torch.
"""

UNKNOWN = 255
"""In a mask: the pixel has no data, or its class is not known. No loss or figure counts it."""
