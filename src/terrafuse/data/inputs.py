"""Files that a manifest reads, for those that write: they must not write over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from terrafuse.data.manifest import Manifest
from terrafuse.data.painted import painted_path
from terrafuse.errors import RasterReadError


def files_read(dataset: Manifest, without: str | None = None) -> Iterator[Path]:
    """The files on this disk that a manifest names, itself, and what is painted beside it.

    None is opened.

    Args:
        without: Modality whose files do not count.
    """
    for entry in dataset.entries:
        with suppress(RasterReadError):  # a pattern without files
            for name, paths in dataset.local_files(entry).items():
                if name != without:
                    yield from paths
    yield dataset.path
    if (painted := painted_path(dataset.path)).exists():
        yield painted
