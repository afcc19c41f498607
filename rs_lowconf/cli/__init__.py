"""The command line: one file a command group. Only here is anything printed."""

from rs_lowconf.cli.app import main

__all__ = ["main"]
