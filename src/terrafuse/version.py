"""The package's version, importable from everywhere without importing the API."""

VERSION = "0.1.0"
