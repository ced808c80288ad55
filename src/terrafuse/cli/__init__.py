"""The verbs on the command line. Nothing imports this room."""

from terrafuse.cli.app import main

__all__ = ["main"]
