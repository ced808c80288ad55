"""How a data set is published: its kinds of files, and the modalities made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from terrafuse.layouts.tree import FileKind
from terrafuse.modalities import ModalityKind


@dataclass(frozen=True)
class Reading:
    """A modality, and the files that hold its bands.

    Args:
        kind: As in a manifest.
        bands: As in a manifest; a part of the files' bands, in any order.
        files: Names of the kinds of files that hold them all, best first.
        unit: As in a manifest.
        nodata: As in a manifest.
        then: Kind of files whose bands follow in a second file.
    """

    kind: ModalityKind
    bands: tuple[str, ...]
    files: tuple[str, ...]
    unit: str = "dn"
    nodata: float | None = None
    then: str = ""


@dataclass(frozen=True)
class Layout:
    """How a data set is published.

    Args:
        title: Of the data set, for messages.
        kinds: The kinds of files there are.
        readings: Modality → how it is read; users choose among them.
        default: Modalities without a choice, the first of which has the scenes' grid.
        optional: Those of `default` that are left out without a word where their files are absent.
        wavelengths_um: Band → centre.
        avoid: Pattern of a folder that must not be used → what it holds.
        series: Id → the series it is counted with.
        expected: Scenes in all, where no list of them is known.
        hint: What to do about known incomplete copies.
        choices: Names of further options.
        tells: Kinds of files whose names no other data set has.
        labels: Kinds of label files; with one of them the data set is told from others on the
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
        """The kind of files of this name."""
        return next(kind for kind in self.kinds if kind.name == name)
