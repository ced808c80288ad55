"""Maps as tiles, opened as QGIS and web maps open them."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from fastapi import FastAPI
from fastapi.responses import FileResponse
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import from_bounds
from rasterio.warp import reproject, transform_bounds
from starlette.testclient import TestClient

from loopback import serving_app
from made_maps import write_map
from terrafuse.web.access.tokens import User
from terrafuse.web.refusals import Refusal
from terrafuse.web.service.answers import answer_errors
from terrafuse.web.service.tiles import router

COLOURS = {0: (10, 20, 30), 1: (200, 100, 0), 2: (0, 250, 100)}
HALF = 20037508.342789244


def turned(angle: float, size: float, left: float, top: float) -> Affine:
    """A grid that is turned about its corner."""
    return Affine.translation(left, top) @ Affine.rotation(angle) @ Affine.scale(size, -size)


GRIDS = {
    "utm": ("EPSG:32633", Affine(10, 0, 500_000, 0, -10, 5_000_000)),
    "degrees": ("EPSG:4326", Affine(1e-4, 0, 15, 0, -1e-4, 45)),
    "rotated": ("EPSG:32633", turned(25, 10, 500_000, 5_000_000)),
    "mercator, rotated": ("EPSG:3857", turned(-20, 12, 1.6e6, 5.6e6)),
}  # fmt: skip


class Jobs:
    """A service with one finished job, m."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def finished(self, id: str, user: User) -> Path:
        if id != "m":
            raise Refusal(404, f"there is no job {id}")
        return self.folder


def app_of(folder: Path) -> FastAPI:
    app = FastAPI()
    answer_errors(app)
    app.state.service = Jobs(folder)
    app.include_router(router)

    @app.api_route("/api/jobs/m/results/{name}", methods=["GET", "HEAD"])
    def result(name: str) -> FileResponse:
        return FileResponse(folder / Path(name).name)

    return app


def make_map(folder: Path, grid: str = "utm", **given: Any) -> TestClient:
    """A map of 100 × 140 pixels, no corner like another, with a hole; and its confidence."""
    rows, cols = np.mgrid[:100, :140]
    classes = ((rows // 7 + cols // 11 + (rows * cols) // 900) % 3).astype(np.uint8)
    classes[30:50, 60:100] = 255
    crs, transform = GRIDS[grid]
    confidence = np.where(classes == 255, 255, (rows + cols) % 255).astype(np.uint8)
    given = {"crs": crs, "transform": transform, "confidence": confidence, **given}
    path = write_map(folder / "class_map.tif", classes, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(1, COLOURS)
    return TestClient(app_of(folder), raise_server_exceptions=False)


def tile_bounds(z: int, x: int, y: int) -> tuple[float, float, float, float]:
    side = 2 * HALF / 2**z
    return (x * side - HALF, HALF - (y + 1) * side, (x + 1) * side - HALF, HALF - y * side)


def warped(path: Path, bounds: tuple[float, ...], size: int = 256) -> np.ndarray[Any, Any]:
    """Values as rasterio itself warps them."""
    found = np.full((size, size), 255, np.uint8)
    with rasterio.open(path) as dataset:
        reproject(
            rasterio.band(dataset, 1),
            found,
            dst_crs="EPSG:3857",
            dst_transform=from_bounds(*bounds, size, size),
            dst_nodata=255,
            resampling=Resampling.nearest,
        )
    return found


def middle_tile(path: Path, z: int) -> tuple[int, int]:
    with rasterio.open(path) as dataset:
        west, south, east, north = transform_bounds(dataset.crs, "EPSG:3857", *dataset.bounds)
    side = 2 * HALF / 2**z
    return int(((west + east) / 2 + HALF) / side), int((HALF - (south + north) / 2) / side)


def painted(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(BytesIO(content)).convert("RGBA"))


@pytest.mark.parametrize("grid", GRIDS)
def test_tiles_are_rasterios_own_warp(tmp_path: Path, grid: str) -> None:
    """Colours of classes at the map's own zoom; at most a pixel of an edge may differ."""
    client = make_map(tmp_path, grid)
    path = tmp_path / "class_map.tif"
    about = client.get("/api/jobs/m/tilejson.json").json()
    z = about["maxzoom"]
    x, y = middle_tile(path, z)
    answer = client.get(f"/api/jobs/m/tiles/class_map/{z}/{x}/{y}.png")
    assert answer.headers["content-type"] == "image/png"
    assert "private" in answer.headers["cache-control"]
    image = painted(answer.content)
    values = warped(path, tile_bounds(z, x, y))
    expected = np.zeros((256, 256, 4), np.uint8)
    for value, colour in COLOURS.items():
        expected[values == value] = (*colour, 255)
    seen = {tuple(colour) for colour in image.reshape(-1, 4) if colour[3]}
    assert seen == {(*colour, 255) for colour in COLOURS.values()}
    drawn, hidden = image[..., 3] > 0, expected[..., 3] > 0
    assert drawn.any()
    assert (~drawn).any()  # the hole
    wrong = (drawn != hidden) | (drawn & (image != expected).any(-1))
    assert wrong.mean() < 0.02
    shifted = np.roll(expected, 3, 1)  # what half a pixel of the map too far would cost
    assert (image[..., 3] > 0).sum() > 1000
    assert ((image != shifted).any(-1)).mean() > 3 * wrong.mean()


def test_confidence_is_a_ramp(tmp_path: Path) -> None:
    client = make_map(tmp_path)
    about = client.get("/api/jobs/m/tilejson.json", params={"layer": "confidence"}).json()
    assert [entry["name"] for entry in about["legend"]] == ["0", "1"]
    z = about["maxzoom"]
    x, y = middle_tile(tmp_path / "confidence.tif", z)
    image = painted(client.get(f"/api/jobs/m/tiles/confidence/{z}/{x}/{y}.png").content)
    values = warped(tmp_path / "confidence.tif", tile_bounds(z, x, y))
    assert len(np.unique(image[image[..., 3] > 0][:, :3], axis=0)) > 50
    # Viridis runs from dark blue over green to yellow: green grows with the value.
    valid = (values < 250) & (image[..., 3] > 0)
    order = np.corrcoef(values[valid], image[valid][:, 1])[0, 1]
    assert order > 0.9


def test_tilejson(tmp_path: Path) -> None:
    client = make_map(tmp_path)
    about = client.get("/api/jobs/m/tilejson.json", headers={"Host": "maps.example:81"}).json()
    assert about["tilejson"] == "3.0.0"
    assert about["scheme"] == "xyz"
    assert about["tiles"] == ["http://maps.example:81/api/jobs/m/tiles/class_map/{z}/{x}/{y}.png"]
    expected = transform_bounds("EPSG:32633", "EPSG:4326", 500_000, 4_999_000, 501_400, 5_000_000)
    np.testing.assert_allclose(about["bounds"], expected, atol=1e-6)
    west, south, east, north = about["bounds"]
    lon, lat, zoom = about["center"]
    assert west < lon < east
    assert south < lat < north
    # A pixel of 10 m at 45° is one of 14.1 m on Web Mercator: zoom 13 (19.1) or 14 (9.6).
    assert about["maxzoom"] in (13, 14)
    assert about["minzoom"] == 0 <= zoom
    assert about["legend"] == [
        {"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*COLOURS[value])}
        for value, name in enumerate(("sea", "wet land", "ice"))
    ]


def test_tiles_beside_the_map_are_transparent(tmp_path: Path) -> None:
    client = make_map(tmp_path)
    for place in ("14/0/0", "3/7/7", f"24/{2**24 - 1}/0"):
        answer = client.get(f"/api/jobs/m/tiles/class_map/{place}.png")
        assert answer.status_code == 200
        image = Image.open(BytesIO(answer.content))
        assert image.size == (256, 256)
        assert not painted(answer.content)[..., 3].any()
    whole = painted(client.get("/api/jobs/m/tiles/class_map/0/0/0.png").content)
    assert whole.shape == (256, 256, 4)


def test_what_is_no_tile(tmp_path: Path) -> None:
    client = make_map(tmp_path)
    cases = {
        "tiles/class_map/3/8/0.png": (404, "columns and rows end at 7"),
        "tiles/class_map/0/0/1.png": (404, "columns and rows end at 0"),
        "tiles/class_map/25/0/0.png": (422, "'path.z'"),
        "tiles/class_map/-1/0/0.png": (422, "'path.z'"),
        "tiles/class_map/1e1/0/0.png": (422, "'path.z'"),
        "tiles/class_map/3/0/nan.png": (422, "'path.y'"),
        f"tiles/class_map/3/0/{'9' * 400}.png": (422, "'path.y'"),
        "tiles/entropy/3/0/0.png": (404, "there are: class_map, confidence"),
        "tiles/..%2fclass_map/3/0/0.png": (404, ""),
        "tiles/%2e%2e/3/0/0.png": (404, ""),
        "tilejson.json?layer=../class_map": (404, "no layer '../class_map'"),
        "tilejson.json?layer=" + "x" * 100: (422, "'query.layer'"),
    }
    for target, (status, message) in cases.items():
        answer = client.get(f"/api/jobs/m/{target}")
        assert answer.status_code == status, target
        assert message in answer.json()["error"], target
        assert str(tmp_path) not in answer.text
    assert client.get("/api/jobs/other/tilejson.json").status_code == 404


def test_maps_that_cannot_be_tiles(tmp_path: Path) -> None:
    client = make_map(tmp_path, crs=None)
    for target in ("tilejson.json", "tiles/class_map/0/0/0.png"):
        answer = client.get(f"/api/jobs/m/{target}")
        assert answer.status_code == 404
        assert "the map has no CRS that leads to a place on a web map" in answer.json()["error"]
    profile: dict[str, Any] = {"driver": "GTiff", "height": 5, "width": 5, "dtype": "float32"}
    crs, transform = GRIDS["utm"]
    with rasterio.open(
        tmp_path / "p.tif", "w", count=2, crs=crs, transform=transform, **profile
    ) as dataset:
        dataset.write(np.ones((2, 5, 5), np.float32))
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    answer = client.get("/api/jobs/m/tilejson.json?layer=p")
    assert answer.status_code == 404
    assert "Download results/p.tif instead" in answer.json()["error"]
    assert client.get("/api/jobs/m/results/p.tif").content == (tmp_path / "p.tif").read_bytes()
    answer = client.get("/api/jobs/m/tilejson.json?layer=broken")
    assert answer.status_code == 409


@pytest.mark.parametrize("where", ["date line", "pole"])
def test_awkward_places(tmp_path: Path, where: str) -> None:
    crs, left, top = (
        ("EPSG:32601", 165_000, 7e6) if where == "date line" else ("EPSG:3413", -9e2, 9e2)
    )
    transform = Affine(200 if where == "date line" else 20, 0, left, 0, -20, top)
    client = make_map(tmp_path, crs=crs, transform=transform)
    about = client.get("/api/jobs/m/tilejson.json").json()
    assert -180 <= about["center"][0] <= 180
    assert all(abs(lat) <= 85.06 for lat in about["bounds"][1::2])
    for place in ("0/0/0", "5/0/8", "5/31/8", "9/511/0"):
        assert client.get(f"/api/jobs/m/tiles/class_map/{place}.png").status_code == 200


XYZ = """<GDAL_WMS><Service name="TMS"><ServerUrl>{url}</ServerUrl></Service><DataWindow>
<UpperLeftX>-20037508.34</UpperLeftX><UpperLeftY>20037508.34</UpperLeftY>
<LowerRightX>20037508.34</LowerRightX><LowerRightY>-20037508.34</LowerRightY>
<TileLevel>{level}</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY>
<YOrigin>top</YOrigin></DataWindow><Projection>EPSG:3857</Projection><BlockSizeX>256</BlockSizeX>
<BlockSizeY>256</BlockSizeY><BandsCount>4</BandsCount></GDAL_WMS>"""


def test_as_qgis_reads_them(tmp_path: Path) -> None:
    """XYZ by GDAL's driver of tiles, the COG by range requests."""
    folder = tmp_path / "map"
    client = make_map(folder)
    with serving_app(app_of(folder)) as url:
        about = client.get("/api/jobs/m/tilejson.json").json()
        z = about["maxzoom"]
        tiles = about["tiles"][0].replace("http://testserver/", url)
        for key in "xyz":
            tiles = tiles.replace(f"{{{key}}}", f"${{{key}}}")
        x, y = middle_tile(folder / "class_map.tif", z)
        with (
            rasterio.Env(GDAL_HTTP_TIMEOUT="20"),
            rasterio.open(XYZ.format(url=tiles, level=z)) as layer,
        ):
            assert layer.crs == CRS.from_epsg(3857)
            window = rasterio.windows.Window(x * 256, y * 256, 256, 256)
            seen = layer.read(window=window)
        values = warped(folder / "class_map.tif", tile_bounds(z, x, y))
        known = np.isin(values, list(COLOURS))
        expected = np.zeros((256, 256, 3), np.uint8)
        for value, colour in COLOURS.items():
            expected[values == value] = colour
        same = (seen[:3].transpose(1, 2, 0) == expected).all(-1) & (seen[3] == 255)
        assert known.sum() > 1000
        assert same[known].mean() > 0.98
        assert (seen[3] == 0)[~known].mean() > 0.98
        with (
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_HTTP_TIMEOUT="20"),
            rasterio.open(f"/vsicurl/{url}api/jobs/m/results/class_map.tif") as far,
            rasterio.open(folder / "class_map.tif") as near,
        ):
            assert far.profile == near.profile
            np.testing.assert_array_equal(far.read(1), near.read(1))


def test_small_tiles_are_read_from_overviews(tmp_path: Path) -> None:
    """Values of a coarse tile are those of the overview that fits, not of every pixel."""
    from terrafuse.web.service.tiles import open_layer

    path = tmp_path / "class_map.tif"
    make_map(tmp_path)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], Resampling.nearest)
    with open_layer(tmp_path, "class_map") as opened:
        at = {step: opened._overview(step * opened.metres) for step in (1, 1.9, 2, 7.9, 8, 1000)}
        assert at == {
            1: {}, 1.9: {}, 2: {"overview_level": 0}, 7.9: {"overview_level": 1},
            8: {"overview_level": 2}, 1000: {"overview_level": 2},
        }  # fmt: skip
        z = opened.maxzoom - 4
        image = opened.tile(z, *middle_tile(path, z))
    assert image is not None
    drawn = int((~image.array.mask).sum())
    expected = 100 * 140 * 0.94 * (opened.metres / (2 * HALF / 2**z / 256)) ** 2
    assert drawn == pytest.approx(expected, rel=0.4)


FOLLOWED = (
    "web.service.tiles:open_layer | Download results/",
    "web.service.tiles:open_layer | Open the job's page, or download",
    "web.service.tiles:open_layer | Run the job again",
)
