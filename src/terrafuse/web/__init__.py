"""The same over HTTP: the viewer, the service, and the page of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from terrafuse.extras import from_extra
from terrafuse.progress import Progress


def view(
    target: str | Path,
    *,
    port: int = 8765,
    host: str = "127.0.0.1",
    browser: bool = True,
    scenes: Sequence[str] = (),
    map_: str | Path | None = None,
    subsets: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page of a map, a run, a data set or a sample until Ctrl-C.

    Args:
        target: A map (its folder, a folder of such, or a raster of classes), a run folder,
            dataset.yaml, or the GeoPackage of a sample.
        port: To listen on; where it is taken, the next free one; 0: any.
        host: To listen on; others than loopback are reached from elsewhere.
        browser: Whether to open the page in the user's browser.
        scenes: Of a data set or a run, those to show; of a map, "dataset.yaml#id" of what it is of.
        map_: Of a sample, the map that it was drawn from; default: as it says itself.
        subsets: Of a run, also map each modality alone, and all but one.
        say: Takes each line for the user.

    Raises:
        DataError: There is nothing to be shown.
        SceneNotFoundError: There is no such scene.
        OutputError: No port is free there, or the host is not this machine's.
        MissingDependencyError: The extra "web" is not installed.
    """
    with from_extra("web", "terrafuse view"):
        from terrafuse.web.viewer.serving import serve_view

    serve_view(
        target,
        port=port,
        host=host,
        browser=browser,
        scenes=scenes,
        map_=map_,
        subsets=subsets,
        say=say,
    )


def write_static(
    target: str | Path,
    out: str | Path,
    *,
    scenes: Sequence[str] = (),
    map_: str | Path | None = None,
    subsets: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Write the page into a folder that any static server can share, and that opens from disk.

    Args:
        target: As for `view`, as are the other choices.
        out: The folder; created, or one that was written this way, which is replaced.
        progress: Called with (scenes done, scenes in all).

    Returns:
        What pages opened from disk cannot show, as sentences.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
        DataError: There is nothing to be shown.
        MissingDependencyError: The extra "web" is not installed.
    """
    with from_extra("web", "terrafuse view"):
        from terrafuse.web.viewer.serving import open_viewer
        from terrafuse.web.viewer.static import write_page

    preparer, _ = open_viewer(target, scenes=scenes, map_=map_, subsets=subsets)
    return write_page(preparer, out, progress=progress)


__all__ = ["view", "write_static"]
