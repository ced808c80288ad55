"""STAC items: which assets are the bands of a modality."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from range_server import RangeServer, serving
from terrafuse.data.stac import choose_assets, has_any, list_items, names_item, read_item
from terrafuse.errors import BandError, DataError
from terrafuse.modalities import Modality

S2 = Modality("s2", ("B04", "nir"), kind="optical")


def item(assets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "Feature", "stac_version": "1.1.0", "id": "T32", "assets": assets, **more}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    with serving(tmp_path) as server:
        yield server


@pytest.mark.parametrize(
    ("assets", "files", "numbers"),
    [
        # Keys, in whatever spelling; relative to the item.
        ({"b4": {"href": "x/r.tif"}, "NIR": {"href": "n.tif"}}, ["x/r.tif", "n.tif"], (1, 2)),
        # 1.0: names and common names; s3 as it is.
        (
            {
                "a": {"href": "s3://b/8.tif", "eo:bands": [{"name": "B08", "common_name": "nir"}]},
                "b": {"href": "s3://b/4.tif", "eo:bands": [{"name": "B04", "common_name": "red"}]},
            },
            ["s3://b/4.tif", "s3://b/8.tif"],
            (1, 2),
        ),
        # 1.1, one file of several bands, in another order.
        (
            {
                "data": {
                    "href": "all.tif",
                    "bands": [
                        {"name": "B02"}, {"name": "B08", "eo:common_name": "nir"}, {"name": "B04"},
                    ],
                }
            },
            ["all.tif"],
            (3, 2),
        ),
        # Pictures and other formats of the same band come last.
        (
            {
                "visual": {"href": "tci.tif", "roles": ["visual"], "bands": [{"name": "B04"}]},
                "r-jp2": {"href": "r.jp2", "bands": [{"name": "B04"}]},
                "r": {"href": "r.tif", "bands": [{"name": "B04"}], "roles": ["data"]},
                "nir": {"href": "n.jp2", "type": "image/jp2"},
            },
            ["r.tif", "n.jp2"],
            (1, 2),
        ),
    ],
)  # fmt: skip
def test_assets_are_chosen_by_the_bands(
    assets: dict[str, Any], files: list[str], numbers: tuple[int, ...], tmp_path: Path
) -> None:
    found = read_item(str(write(tmp_path / "item.json", item(assets))))
    chosen = choose_assets(found, S2)
    expected = tuple(f if "://" in f else str(tmp_path / f) for f in files)
    assert (chosen.files, chosen.numbers) == (expected, numbers)


def test_an_item_without_the_assets_lists_what_there_is(tmp_path: Path) -> None:
    assets = {
        "nir": {"href": "n.tif"},
        "visual": {"href": "v.tif", "bands": [{"name": "red"}, {"name": "green"}]},
    }
    found = read_item(str(write(tmp_path / "item.json", item(assets))))
    with pytest.raises(BandError, match=r"band 'B04' of modality 's2' is in no asset of item 'T32'"
                       r".*its assets are nir, visual \(red, green\)\. Give an item"):  # fmt: skip
        choose_assets(found, S2)
    assert has_any(found, S2)
    assert not has_any(found, Modality("s1", ("vv",), kind="sar"))


def test_a_band_in_several_assets_is_not_guessed(tmp_path: Path) -> None:
    assets = {k: {"href": f"{k}.tif", "bands": [{"name": "B04"}]} for k in ("10m", "20m")}
    found = read_item(str(write(tmp_path / "item.json", item(assets))))
    with pytest.raises(BandError, match="several assets of item 'T32': 10m, 20m"):
        choose_assets(found, S2)


def test_an_item_of_a_server(tmp_path: Path, server: RangeServer) -> None:
    assets = {"B04": {"href": "../a.tif?sig=1"}, "nir": {"href": "https://o.org/n.tif?x=%2F"}}
    write(tmp_path / "items" / "one.json", item(assets))
    chosen = choose_assets(read_item(server.url("items/one.json")), S2)
    assert chosen.files == (server.url("a.tif") + "?sig=1", "https://o.org/n.tif?x=%2F")


def test_links_of_a_server_count_from_where_the_item_says_that_it_is(
    tmp_path: Path, server: RangeServer
) -> None:
    links = [{"rel": "self", "href": "https://api.org/items/s2/one.json"}]
    path = write(tmp_path / "one.json", item({"B04": {"href": "../a.tif"}}, links=links))
    assert read_item(server.url("one.json")).assets[0].href == "https://api.org/items/a.tif"
    # Downloaded, its files lie beside it.
    assert read_item(str(path)).assets[0].href == str(tmp_path / "../a.tif")


def test_the_key_of_a_file_of_several_bands_is_no_band(tmp_path: Path) -> None:
    bands = [{"name": name} for name in ("B02", "B04", "nir")]
    found = read_item(str(write(tmp_path / "x.json", item({"nir": {"href": "x", "bands": bands}}))))
    assert choose_assets(found, S2).numbers == (2, 3)


def test_a_server_is_asked_twice_unless_it_refuses(tmp_path: Path, server: RangeServer) -> None:
    write(tmp_path / "one.json", item({}))
    server.fails_every = 2
    for _ in range(3):  # of two requests one is answered by 503
        assert read_item(server.url("one.json")).id == "T32"
    server.refuses = 403
    server.forget()
    with pytest.raises(DataError, match="403"):
        read_item(server.url("one.json"))
    assert len(server.requests) == 1


@pytest.mark.parametrize("href", ["file:///etc/passwd", "/vsizip/a.zip"])
def test_a_server_does_not_lead_to_this_disk(
    href: str, tmp_path: Path, server: RangeServer
) -> None:
    write(tmp_path / "one.json", item({"B04": {"href": href}}))
    with pytest.raises(DataError, match="which is not on a server: it is not read"):
        read_item(server.url("one.json"))
    # What the message says: the same item from this disk.
    assert read_item(str(tmp_path / "one.json")).assets[0].href.endswith(href[7:])


def test_a_collection_links_to_items_that_are_read_when_needed(
    tmp_path: Path, server: RangeServer
) -> None:
    links = [{"rel": "item", "href": f"./{n}/{n}.json"} for n in ("a", "b")]
    more = [{"rel": "self", "href": "x"}, {"href": "y"}]
    write(tmp_path / "collection.json", {"type": "Collection", "id": "c", "links": links + more})
    write(tmp_path / "b" / "b.json", item({"B04": {"href": "r.tif"}}))
    write(tmp_path / "a" / "a.json", {"type": "Catalog", "links": links})
    first, second = list_items(server.url("collection.json"))
    assert (first.id, second.id) == ("a", "b")
    assert len(server.requests) == 1
    assert second.read().assets[0].href == server.url("b/r.tif")
    with pytest.raises(DataError, match="is no STAC item"):
        first.read()
    with pytest.raises(DataError, match=r"has 2 items, and a scene is one.*--items"):
        read_item(str(tmp_path / "collection.json"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], "is no JSON object"),
        ({"type": "Topology"}, "is no STAC item, collection of items or catalogue: .*'Topology'"),
        ({"type": "FeatureCollection", "features": []}, "a STAC FeatureCollection, names no items"),
        ({"type": "FeatureCollection", "features": [7]}, "is no JSON object: 7"),
        ({"type": "Feature", "id": "a"}, "'assets' of item 'a'.* is no JSON object: None"),
        ({"type": "Feature", "assets": {}}, "has no id"),
        (item({"x": {}}), "asset 'x' of item 'T32' has no href"),
        (
            {"type": "FeatureCollection", "features": [item({})],
             "links": [{"rel": "next", "href": "p2"}]},
            "one page of a search that has more",
        ),
    ],
)  # fmt: skip
def test_documents_that_are_none(content: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        read_item(str(write(tmp_path / "x.json", content)))


def test_a_page_of_a_search_is_taken_without_the_link(tmp_path: Path) -> None:
    page = {"type": "FeatureCollection", "features": [item({})], "links": [{"rel": "next"}]}
    with pytest.raises(DataError, match="or remove the link"):
        list_items(str(write(tmp_path / "x.json", page)))
    assert len(list_items(str(write(tmp_path / "x.json", {**page, "links": []})))) == 1


def test_documents_that_cannot_be_read(tmp_path: Path, server: RangeServer) -> None:
    (tmp_path / "x.json").write_text("{")
    for name, text in (
        (str(tmp_path / "x.json"), "is no JSON"),
        (str(tmp_path / "y.json"), "there is no file"),
        (server.url("y.json"), "404. The server has no such file"),
        ("http://127.0.0.1:1/x.json", "Correct the name of the host"),
    ):
        with pytest.raises(DataError, match=text):
            read_item(name)


def test_names_of_items() -> None:
    assert names_item("a/item.json")
    assert names_item("https://a.org/collections/s2/items/S2A_T32?x=1")
    assert names_item("https://a.org/item.geojson?sig=a.tif")
    assert not names_item("https://a.org/B04.tif?item=x.json")
    assert not names_item("items/B04.tif")
