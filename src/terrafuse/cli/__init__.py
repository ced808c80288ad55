"""Command-line interface; no other subpackage imports it."""

from terrafuse.cli.app import main

__all__ = ["main"]
