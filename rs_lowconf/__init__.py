"""Find the Sentinel-2 tiles that a model is unsure of, and have people judge them.

The data flows in a line (tiles, generator, target, search, review); the imports form a
star: stages share the values and protocols of `rs_lowconf.types` and never import each
other. Only `rs_lowconf.cli` joins them.
"""

__version__ = "0.1.0"
