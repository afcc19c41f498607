"""How masks are stored: one whole number per pixel, the index of its class.

Apart from `rs_lowconf.types`, so that review packages are read without torch.
"""

UNKNOWN = 255
"""Mask value of pixels without data or of unknown class, which losses and figures ignore."""
