"""Description of a published data set: its kinds of files, and the modalities made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from terrafuse.layouts.tree import FileKind
from terrafuse.modalities import ModalityKind


@dataclass(frozen=True)
class Reading:
    """A modality, and the files that hold its bands.

    Args:
        bands: As in a manifest; a part of the files' bands, in any order.
        files: Names of the kinds of files that hold them all, best first.
        then: Kind of a second file whose bands follow; empty: none.
    """

    kind: ModalityKind
    bands: tuple[str, ...]
    files: tuple[str, ...]
    unit: str = "dn"
    nodata: float | None = None
    then: str = ""


@dataclass(frozen=True)
class Layout:
    """Kinds of files and modalities of a published data set.

    Args:
        title: Title of the data set, for messages.
        readings: Modality → its reading; users choose among them.
        default: Modalities used by default; the first defines the scenes' grid.
        optional: Modalities of `default` that are silently omitted where their files are absent.
        wavelengths_um: Band → centre.
        avoid: Pattern of a folder that must not be used → description of its content.
        series: Id → the series it is counted with.
        expected: Number of scenes, where no list of them is known.
        hint: Advice on known incomplete copies.
        choices: Names of further options.
        tells: Kinds of files whose names occur in no other data set.
        labels: Kinds of label files, by which the data set is distinguished from others on the
            same images.
    """

    title: str
    kinds: tuple[FileKind, ...]
    readings: Mapping[str, Reading]
    default: tuple[str, ...]
    optional: frozenset[str] = frozenset()
    wavelengths_um: Mapping[str, float] = field(default_factory=dict)
    avoid: Mapping[str, str] = field(default_factory=dict)
    series: Callable[[str], str] | None = None
    expected: int | None = None
    hint: str = ""
    choices: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def kind(self, name: str) -> FileKind:
        """Return the kind of files of this name."""
        return next(kind for kind in self.kinds if kind.name == name)
