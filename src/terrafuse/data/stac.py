"""STAC items: which of their assets are the bands of a modality.

Items, collections of items (a search's answer) and catalogues with links to items are read from
files and web servers, of versions 1.0 (`eo:bands`) and 1.1 (`bands`). What stands in them is not
trusted: of what a server sends, assets on this disk are refused.
"""

from __future__ import annotations

import json
import posixpath
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from terrafuse.config.paths import expand_home
from terrafuse.data.band_names import plain_name
from terrafuse.data.on_disk import obstacle, shown
from terrafuse.data.rasters import ReadingRules
from terrafuse.data.remote import advise
from terrafuse.errors import BandError, DataError, cut
from terrafuse.modalities import Modality

_SECONDS = 30
# A page of a search has 10 000 items at most; one item may have 100 kB.
_MOST_BYTES = 1 << 30
_WEB = ("http://", "https://")
_ELSEWHERE = (*_WEB, "s3://", "gs://", "az://")
_MOST_LISTED = 30
# Roles of assets that are made for looking at.
_PICTURES = {"thumbnail", "overview", "visual", "metadata"}


class Asset(NamedTuple):
    """A file of an item.

    Args:
        key: Its name in the item.
        href: File or URL.
        bands: Per band, the names that it has.
        is_picture: Whether it is made for looking at.
        is_tiff: Whether it is said to be a GeoTIFF.
    """

    key: str
    href: str
    bands: tuple[frozenset[str], ...]
    is_picture: bool
    is_tiff: bool

    def __str__(self) -> str:
        """The key, with the names of several bands."""
        names = [min(band, key=len) for band in self.bands if band]
        return f"{self.key} ({', '.join(names)})" if names else self.key


@dataclass(frozen=True)
class Item:
    """A place with its files.

    Args:
        id: Its name.
        path: The file or URL that it was read from.
    """

    id: str
    path: str
    assets: tuple[Asset, ...]


class Chosen(NamedTuple):
    """The files of a modality.

    Args:
        files: In the order in which their bands are counted.
        numbers: 1-based bands, counted through all files.
        counts: How many bands each file has according to the item.
    """

    files: tuple[str, ...]
    numbers: tuple[int, ...]
    counts: tuple[int, ...]

    def rules(self, rules: ReadingRules) -> ReadingRules:
        """Rules that read these bands."""
        return replace(rules, read_bands=self.numbers, band_names="ignore", page=None)


def names_item(name: str) -> bool:
    """Tell whether a name given for a raster is of a STAC document, by its form."""
    path = urlsplit(name).path if name.startswith(_WEB) else name
    is_api = name.startswith(_WEB) and posixpath.basename(posixpath.dirname(path)) == "items"
    return path.lower().endswith((".json", ".geojson")) or is_api


class Entry(NamedTuple):
    """An item of a document, not looked at yet.

    Args:
        id: Its name; of a linked one, that of its file.
        read: Reads it; raises DataError.
    """

    id: str
    read: Callable[[], Item]


def read_item(name: str) -> Item:
    """The only item of a document.

    Raises:
        DataError: There are several or none, or it cannot be read.
    """
    entries = list_items(name)
    if len(entries) != 1:
        raise DataError(
            f"'{shown(name)}' has {len(entries)} items, and a scene is one. Give the file of one "
            "item, or map all of them with --items"
        )
    return entries[0].read()


def list_items(name: str) -> list[Entry]:
    """The items of a document: an item itself, the answer of a search, or a catalogue with links.

    Items that a catalogue links to are read when they are needed.

    Args:
        name: File or URL.

    Raises:
        DataError: It cannot be read, is none of these, or has no items.
    """
    content = _read(name)
    kind = content.get("type")
    if kind == "Feature":
        return [_entry(content, name, 1)]
    if kind == "FeatureCollection":
        features = content.get("features")
        entries = [
            _entry(feature, name, number)
            for number, feature in enumerate(features if isinstance(features, list) else (), 1)
        ]
        _refuse_further_pages(content, name)
    elif kind in ("Collection", "Catalog"):
        links = [str(link.get("href", "")) for link in _links(content) if link["rel"] == "item"]
        entries = [
            Entry(PurePosixPath(urlsplit(href).path).stem, partial(_read_linked, href, name))
            for href in links
        ]
    else:
        raise DataError(
            f"'{shown(name)}' is no STAC item, collection of items or catalogue: its 'type' is "
            f"{cut(repr(kind))}"
        )
    if not entries:
        raise DataError(f"'{shown(name)}', a STAC {kind}, names no items")
    return entries


def _entry(content: Any, name: str, number: int) -> Entry:
    id = content.get("id") if isinstance(content, dict) else None
    return Entry(str(id or f"item {number}"), partial(_to_item, content, name))


def _read_linked(href: str, name: str) -> Item:
    path = _resolve(href, name)
    content = _read(path)
    if content.get("type") != "Feature":
        raise DataError(f"'{shown(path)}', to which '{shown(name)}' links, is no STAC item")
    return _to_item(content, path)


def choose_assets(item: Item, modality: Modality) -> Chosen:
    """The assets of an item that hold the bands of a modality.

    A band is found by the key of an asset, else by the names of an asset's bands, common names
    included; spellings such as "B04" and "b4" are one. Pictures made for looking at come last.

    Raises:
        BandError: A band is in none or in several; the message lists what there is.
    """
    places = [_find(item, modality, band) for band in modality.bands]
    files: dict[str, Asset] = {}
    for asset, _ in places:
        files.setdefault(asset.href, asset)
    counts = [max(1, len(asset.bands)) for asset in files.values()]
    starts = dict(zip(files, (sum(counts[:i]) for i in range(len(counts))), strict=True))
    numbers = tuple(starts[asset.href] + band for asset, band in places)
    return Chosen(tuple(files), numbers, tuple(counts))


def has_any(item: Item, modality: Modality) -> bool:
    """Tell whether an item has at least one band of a modality."""
    return any(_candidates(item, band) for band in modality.bands)


def _find(item: Item, modality: Modality, band: str) -> tuple[Asset, int]:
    found = _candidates(item, band)
    if len({asset.href for asset, _ in found}) == 1:
        return found[0]
    listed = ", ".join(map(str, item.assets[:_MOST_LISTED])) or "none"
    more = " …" if len(item.assets) > _MOST_LISTED else ""
    start = f"band '{band}' of modality '{modality.name}' is in"
    if found:
        several = ", ".join(asset.key for asset, _ in found)
        raise BandError(
            f"{start} several assets of item '{item.id}': {several}. Give the files themselves "
            f"(-r {modality.name}=URL)"
        )
    raise BandError(
        f"{start} no asset of item '{item.id}' ('{shown(item.path)}'); its assets are {listed}"
        f"{more}. Give an item that has it, or the files themselves (-r {modality.name}=URL)"
    )


def _candidates(item: Item, band: str) -> list[tuple[Asset, int]]:
    """The assets that hold a band, and its 1-based number, by the clearest name."""
    wanted = plain_name(band)
    by_key = [
        (asset, 1)
        for asset in item.assets
        if len(asset.bands) <= 1 and plain_name(asset.key) == wanted
    ]
    by_name = [
        (asset, number)
        for asset in item.assets
        for number, names in enumerate(asset.bands, 1)
        if wanted in map(plain_name, names)
    ]
    found = by_key or by_name
    found = [(asset, number) for asset, number in found if not asset.is_picture] or found
    return [(asset, number) for asset, number in found if asset.is_tiff] or found


def _to_item(value: Any, path: str) -> Item:
    """An item as JSON has it.

    Raises:
        DataError: It has no id or no assets.
    """
    content = _mapping(value, f"an item of '{shown(path)}'")
    id = content.get("id")
    if not isinstance(id, str | int) or not str(id):
        raise DataError(f"an item of '{shown(path)}' has no id")
    assets = _mapping(content.get("assets"), f"'assets' of item '{id}' of '{shown(path)}'")
    base = next(
        (str(link.get("href")) for link in _links(content) if link.get("rel") == "self"), path
    )
    if not (base.startswith(_WEB) and path.startswith(_WEB)):
        base = path
    return Item(
        str(id),
        path,
        tuple(_to_asset(key, value, base, str(id)) for key, value in assets.items()),
    )


def _to_asset(key: str, value: Any, base: str, id: str) -> Asset:
    about = _mapping(value, f"asset '{key}' of item '{id}'")
    href = about.get("href")
    if not isinstance(href, str) or not href:
        raise DataError(f"asset '{key}' of item '{id}' has no href")
    bands = about.get("bands") or about.get("eo:bands") or about.get("raster:bands") or []
    roles = about.get("roles")
    media = str(about.get("type", "")).lower()
    return Asset(
        key,
        _resolve(href, base),
        tuple(_names(band) for band in bands) if isinstance(bands, list) else (),
        is_picture=bool(_PICTURES & set(map(str, roles if isinstance(roles, list) else ()))),
        is_tiff="tiff" in media or href.partition("?")[0].lower().endswith((".tif", ".tiff")),
    )


def _names(band: Any) -> frozenset[str]:
    """The names of a band."""
    if not isinstance(band, dict):
        return frozenset()
    keys = ("name", "common_name", "eo:common_name")
    return frozenset(band[key] for key in keys if isinstance(band.get(key), str) and band[key])


def _links(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = content.get("links")
    every = links if isinstance(links, list) else []
    return [link for link in every if isinstance(link, dict) and isinstance(link.get("rel"), str)]


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is no JSON object: {cut(repr(value))}")
    return value


def _refuse_further_pages(content: Mapping[str, Any], name: str) -> None:
    """Refuse the first page of a search: the others would be left out in silence.

    Raises:
        DataError: There are others.
    """
    if any(link.get("rel") == "next" for link in _links(content)):
        raise DataError(
            f"'{shown(name)}' is one page of a search that has more (a link 'next'). Ask for all "
            "items at once (limit=…), or remove the link if this page is what is meant"
        )


def _resolve(href: str, base: str) -> str:
    """A link as a file or URL.

    Raises:
        DataError: A server's document leads to this disk.
    """
    if href.startswith(_ELSEWHERE):
        return href
    if base.startswith(_WEB):
        found = urljoin(base, href)
        if not found.startswith(_WEB) or href.startswith("/vsi"):
            raise DataError(
                f"'{shown(base)}' names '{shown(href)}', which is not on a server: it is not read. "
                "Download the item, and give its file if that is meant"
            )
        return found
    path = href.removeprefix("file://")
    return str(expand_home(base).absolute().parent / path)


def _read(name: str) -> Mapping[str, Any]:
    """A JSON document of a file or a web server.

    Raises:
        DataError: It cannot be read.
    """
    text = _fetch(name) if name.startswith(_WEB) else _load(name)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{shown(name)}' is no JSON: {error}") from None
    return _mapping(content, f"'{shown(name)}'")


def _load(name: str) -> bytes:
    path = expand_home(name)
    problem = obstacle(path)
    try:
        if problem:
            raise DataError(problem)
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"'{shown(name)}' cannot be read: {error.strerror}") from None


def _fetch(url: str) -> bytes:
    """What a web server sends; asked twice.

    Raises:
        DataError: It cannot be reached, or refuses.
    """
    request = urllib.request.Request(url, headers={"Accept": "application/geo+json, */*"})  # noqa: S310
    reason = ""
    for _ in range(2):
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                content: bytes = answer.read(_MOST_BYTES)
            return content
        except urllib.error.HTTPError as error:
            reason = f"HTTP response code: {error.code}"
            if error.code < 500:
                break
        except (OSError, ValueError) as error:
            cause = getattr(error, "reason", None) or error
            reason = f"could not connect: {cause}"
    todo = advise(reason)
    raise DataError(f"'{shown(url)}' cannot be read: {reason}. {todo}".rstrip())
