"""The command line `rslow`: parses, shows progress, reports. What commands do, workflows do."""

from rs_lowconf.cli.program import main

__all__ = ["main"]
