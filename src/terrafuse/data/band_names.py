"""Names that files give their bands, matched with those of a modality.

Descriptions of bands count most; then, of a modality that is a file per band, the words of the file
names; then colour tags (red, green, blue). Where they name every band of the modality, the bands
are taken by name. Where they name others than are read, the file is refused or spoken of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from terrafuse.data.raster_file import RasterFile
from terrafuse.errors import BandError
from terrafuse.modalities import Modality

BandNamesRule = Literal["use", "descriptions", "ignore"]
#: Per channel, (position of the file, 1-based band in it).
Picked = list[tuple[int, int]]

_COLORS = {
    "red": ("red", "r"),
    "green": ("green", "g"),
    "blue": ("blue", "b"),
    "nir": ("nir", "n", "nearinfrared", "infrared"),
}
_MEANINGS: dict[str, str] = {
    word: color for color, words in _COLORS.items() for word in words if len(word) > 1
} | {
    word: word
    for word in (
        "coastal", "yellow", "rededge", "swir", "swir1", "swir2", "pan", "thermal", "cirrus",
        "vv", "vh", "hh", "hv",
    )
}  # fmt: skip
_LETTERS = {words[1]: color for color, words in _COLORS.items()}
# Of Sentinel-2, and but for the last one of Landsat 8 and 9.
_NUMBERS = {"b2": "blue", "b3": "green", "b4": "red", "b8": "nir"}


class BandNamesWarning(UserWarning):
    """Bands were taken by the names that files give them, or could not be.

    Args:
        text: What was done.
        is_doubtful: Whether the bands read may not be those that are meant.
    """

    def __init__(self, text: str, *, is_doubtful: bool) -> None:
        super().__init__(text)
        self.is_doubtful = is_doubtful


@dataclass(frozen=True)
class BandNotice:
    """Notice on how band names were matched.

    Args:
        path: The first of the files.
        text: The rest of a sentence that begins with the file.
        is_doubtful: Whether the bands read may not be those that are meant.
    """

    path: str
    text: str
    is_doubtful: bool = False


class BandChoice(NamedTuple):
    """Bands that a modality takes from its files.

    Args:
        picked: Per channel, the file and the band.
        notice: What the owner of the files should know.
        is_named: Whether names tell that they are right.
    """

    picked: Picked
    notice: BandNotice | None = None
    is_named: bool = False


class _Names(NamedTuple):
    """Reading of the candidates by one kind of names.

    Args:
        source: What they are, for messages.
        texts: A name per candidate, or "".
        strict: Whether a contradiction is refused.
        is_weak: Whether they say nothing unless they name every band: writers tag three or four
            bytes red, green, blue and alpha whatever these are.
        shown: The names in messages, where these are longer.
    """

    source: str
    texts: list[str]
    strict: bool = True
    is_weak: bool = False
    shown: tuple[str, ...] = ()

    @property
    def listed(self) -> str:
        """The names in the order of the files."""
        return _listed(self.shown or self.texts)


def choose_by_name(
    modality: Modality,
    files: Sequence[RasterFile],
    candidates: Picked,
    rule: BandNamesRule,
    where: str,
) -> BandChoice:
    """The bands of a modality among those of its files; in the order of the files without names.

    Args:
        modality: Whose bands.
        files: Its files.
        candidates: Their bands, without alpha.
        rule: Which names count.
        where: Names the modality and scene in messages.

    Raises:
        BandError: The files name other bands.
    """
    if rule == "ignore":
        return BandChoice(candidates)
    every = _kinds_of_names(files, candidates)
    for names in every if rule == "use" else every[:1]:
        order = _find_all(modality.bands, names)
        if order is not None:
            chosen = [candidates[place] for place in order]
            notice = None
            if chosen != candidates:
                notice = _notice_order(modality, files, names, order)
            return BandChoice(chosen, notice, is_named=True)
        wrong = None if names.is_weak else _first_contradiction(modality.bands, names)
        if wrong is None or len(candidates) != len(modality.bands):
            continue
        path = files[candidates[wrong][0]].path
        if names.strict:
            raise BandError(_contradiction(modality, names, wrong, path, where))
        return BandChoice(candidates, _doubt(modality, names, path))
    return BandChoice(candidates)


def doubt_numbers(
    modality: Modality, files: Sequence[RasterFile], picked: Picked
) -> BandNotice | None:
    """Bands that were picked by number and have another name than the modality gives them."""
    texts = [files[i].descriptions[band - 1] for i, band in picked]
    names = _Names("descriptions", texts)
    wrong = _first_contradiction(modality.bands, names)
    if wrong is None:
        return None
    i, band = picked[wrong]
    text = (
        f"describes its band {band} as '{texts[wrong]}', which 'read_bands' takes as "
        f"'{modality.bands[wrong]}'. If that is right, say 'band_names: ignore' on the modality"
    )
    return BandNotice(files[i].path, text, is_doubtful=True)


def _kinds_of_names(files: Sequence[RasterFile], candidates: Picked) -> list[_Names]:
    """Descriptions first, then those that count less."""
    described = [files[i].descriptions[band - 1] for i, band in candidates]
    kinds = [_Names("descriptions", described)]
    numbers = [i for i, _ in candidates]
    if len(set(numbers)) == len(numbers) > 1:
        names = [files[i].path.replace("\\", "/").rpartition("/")[2] for i in numbers]
        stems = _stems(names)
        clear = all(_meanings([stem])[0] for stem in stems)
        kinds.append(_Names("file names", stems, clear, shown=tuple(names)))
    colors = [files[i].colors[band - 1] for i, band in candidates]
    known = [color if color in _MEANINGS or color == "alpha" else "" for color in colors]
    return [*kinds, _Names("colour tags", known, is_weak=True)]


def _find_all(bands: Sequence[str], names: _Names) -> list[int] | None:
    """Per band, the place of the candidate with its name; None unless every band has its own."""
    meant = _meanings(bands, numbers=not names.is_weak)
    told = _meanings(names.texts)
    found: list[int | None] = []
    for band, meaning in zip(bands, meant, strict=True):
        tests: tuple[Callable[[int], bool], ...] = (
            lambda i, band=band: plain_name(names.texts[i]) == plain_name(band),  # type: ignore[misc]
            lambda i, band=band: _contains(names.texts[i], band),  # type: ignore[misc]
            lambda i, meaning=meaning: bool(meaning) and told[i] == meaning,  # type: ignore[misc]
        )
        hits: list[int] = []
        for test in tests:
            hits = hits or [i for i, text in enumerate(names.texts) if text and test(i)]
        found.append(hits[0] if len(hits) == 1 else None)
    lost = [place for place, hit in enumerate(found) if hit is None]
    nameless = [i for i, text in enumerate(names.texts) if not text]
    if len(bands) == len(names.texts) > 2 and len(lost) == len(nameless) == 1:
        found[lost[0]] = nameless[0]  # what is left is the one without a name
    known = [place for place in found if place is not None]
    return known if len(known) == len(bands) == len(set(known)) else None


def _first_contradiction(bands: Sequence[str], names: _Names) -> int | None:
    """The first candidate that means another band than the one read from it."""
    told = _meanings(names.texts)
    pairs = enumerate(zip(_meanings(bands), told, strict=False))
    wrong = [place for place, (meant, said) in pairs if meant and said not in ("", "alpha", meant)]
    return wrong[0] if wrong else None


def _meanings(texts: Sequence[str], *, numbers: bool = True) -> list[str]:
    """Return the general meaning of each name: "red", "vv" …; "" if unknown."""
    joined = [plain_name(text) for text in texts]
    letters = {"r", "g", "b"} <= set(joined) and all(
        word in _LETTERS or word in _MEANINGS or not word for word in joined
    )
    count = len(texts)
    counted = set(joined) <= {f"b{n}" for n in range(count + 1)}
    known = dict(_MEANINGS)
    known |= _LETTERS if letters else {}
    known |= _NUMBERS if numbers and not counted else {}
    found = []
    for text, whole in zip(texts, joined, strict=True):
        words = _words(text)
        pairs = ["".join(pair) for pair in pairwise(words)]
        exact = [known[word] for word in (whole, *pairs) if word in known]
        meant = exact[:1] or [known[word] for word in words if word in known]
        found.append(meant[0] if len(set(meant)) == 1 else "alpha" if whole == "alpha" else "")
    return found


@lru_cache(maxsize=1 << 14)  # scenes of a data set have the same names
def _words(text: str) -> tuple[str, ...]:
    """Words and numbers in lower case; "B04" and "B4" are one."""
    found = re.findall(r"[a-z0-9]+", text.lower())
    return tuple(re.sub(r"(?<!\d)0+(?=\d)", "", word) for word in found)


def plain_name(text: str) -> str:
    """A name without what spellings differ in: "B04", "b4" and "B-4" are one."""
    return "".join(_words(text))


def _contains(text: str, name: str) -> bool:
    words, wanted = _words(text), _words(name)
    starts = range(len(words) - len(wanted) + 1)
    return bool(wanted) and any(words[i : i + len(wanted)] == wanted for i in starts)


def _stems(names: Sequence[str]) -> list[str]:
    """Names of files without suffix and the words that all of them have."""
    stems = [Path(name).stem for name in names]
    common = set.intersection(*(set(_words(stem)) for stem in stems))
    return [" ".join(word for word in _words(stem) if word not in common) for stem in stems]


def _notice_order(
    modality: Modality, files: Sequence[RasterFile], names: _Names, order: Sequence[int]
) -> BandNotice:
    text = (
        f"has bands in another order by its {names.source} ({names.listed}); they are taken by "
        f"name as {_listed(modality.bands)}: {_listed([str(place + 1) for place in order])}. "
        "'band_names: ignore' on the modality takes them as they come"
    )
    return BandNotice(files[0].path, text)


def _contradiction(modality: Modality, names: _Names, wrong: int, path: str, where: str) -> str:
    return (
        f"{where}: '{path}' is '{names.texts[wrong]}' by its {names.source} "
        f"({names.listed}) where band '{modality.bands[wrong]}' is to be read "
        f"(bands are {_listed(modality.bands)}). Name the right files, or correct 'bands'; if the "
        f"names in the files are wrong, 'band_names: ignore' on the modality in a manifest takes "
        "the bands as they come"
    )


def _doubt(modality: Modality, names: _Names, path: str) -> BandNotice:
    text = (
        f"has {names.source} ({names.listed}) that do not suit the order of its bands "
        f"({_listed(modality.bands)}), which are read as they come. If that is right, say "
        "'band_names: ignore' on the modality; if not, give the order with 'read_bands'"
    )
    return BandNotice(path, text, is_doubtful=True)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name or "–" for name in names[:13]) + (" …" if len(names) > 13 else "")
