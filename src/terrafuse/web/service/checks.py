"""What a request asks for, checked as far as can be before anything is queued."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from terrafuse.api.inputs import open_item, open_rasters
from terrafuse.data import Scene
from terrafuse.data.stac import choose_assets, has_any, names_item, read_item
from terrafuse.data.value_conversion import ValueConversion
from terrafuse.data.value_scale import check_values
from terrafuse.errors import DataError, TerrafuseError, cut
from terrafuse.prediction import MapSettings
from terrafuse.web.access.tokens import User
from terrafuse.web.access.users import require
from terrafuse.web.refusals import Refusal
from terrafuse.web.service.messages import JobRequest
from terrafuse.web.service.models import ModelShelf, ServedModel
from terrafuse.web.service.rasters import check_address, check_kind
from terrafuse.web.service.roots import resolve
from terrafuse.web.service.settings import ServiceSettings
from terrafuse.web.service.uploads import PREFIX, Uploads
from terrafuse.web.service.veil import Veil, names_given
from terrafuse.weights import RunInfo

_WEB = ("http://", "https://")
_MOST_FILES = 64
_LONGEST = 2000
#: Of polygons, previews and records.
_SMALL_FILES_BYTES = 16 << 20
#: Options of the command line in remedies → fields of requests. Batches are sized by the workers.
_FIELDS = {
    r"'--convert ([^'=]*)=([^']*)'": r'"convert": {"\1": "\2"}',
    r"'--trust-values'": '"trust_values": true',
    r"--crop-size (\d+) --overlap (\d+) --batch-size \d+": r'"crop_size": \1, "overlap": \2',
    r"a --batch-size below \d+ or a --crop-size below": 'a "crop_size" below',
}
_SIZES = {"uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "float16": 2}


@dataclass(frozen=True)
class Checked:
    """A request that can be queued.

    Args:
        rasters: Modality → paths or addresses, in the order of the bands.
        need_bytes: Of disk, at most.
    """

    model: ServedModel
    rasters: Mapping[str, Sequence[str]]
    need_bytes: int
    has_crs: bool


@dataclass(frozen=True)
class Checker:
    """What requests are checked by.

    Args:
        uploads: Rasters that were sent.
        supports_missing: Whether a model does without a modality; None: no worker has said so.
    """

    settings: ServiceSettings
    shelf: ModelShelf
    uploads: Uploads
    supports_missing: Callable[[str], bool | None]

    def check(self, request: JobRequest, user: User, free_bytes: int) -> Checked:
        """Check a request, all but how many jobs its user has.

        Args:
            free_bytes: Disk that no job has spoken for.

        Raises:
            Refusal: It asks for what there is not, what is not allowed, or rasters that do not suit
                the model or each other.
            TerrafuseError: A setting is wrong.
        """
        if request.priority > 0:
            require(user, "priority")
        model = self.shelf.find(request.model)
        settings = _check_settings(request, model)
        conversions = _conversions(request, model)
        rasters = self._rasters(request, user)
        veil = Veil({**names_given(request, rasters), str(model.path.absolute()): model.name})
        with _in_their_words(veil), closing(self._open(model, rasters)) as scene:
            self._check_scene(scene, model)
            if all(not path.startswith(_WEB) for paths in rasters.values() for path in paths):
                _check_values(scene, model, conversions, request.trust_values)
            grid = scene.grid
            classes = model.info.scheme.num_classes
            need = _need_bytes(grid.height * grid.width, settings, classes)
            has_crs = grid.crs is not None
        if need > free_bytes:
            raise Refusal(
                413,
                f"this map may need {_in_mb(need)} of disk, and the service has "
                f"{_in_mb(max(free_bytes, 0))} left. Ask for fewer products, or delete jobs",
            )
        return Checked(model, rasters, need, has_crs)

    def _rasters(self, request: JobRequest, user: User) -> dict[str, list[str]]:
        """Where the rasters are; a STAC item has no modality."""
        if (request.item is None) == (not request.rasters):
            raise Refusal(422, "give either 'rasters' (modality → rasters) or a STAC 'item'")
        if request.item is not None:
            self._check_address(request.item, user)
            if not names_item(request.item):
                raise Refusal(
                    422, f"'item' {cut(request.item)} is no address of a STAC item (.json)"
                )
            return {"": [request.item]}
        if "" in request.rasters:
            raise Refusal(422, "'rasters' has a modality without name. Name it as the model does")
        return {name: self._resolve(name, given, user) for name, given in request.rasters.items()}

    def _open(self, model: ServedModel, rasters: Mapping[str, Sequence[str]]) -> Scene:
        if "" in rasters:
            return scene_of_item(model.info, rasters[""][0], self.settings.url_hosts)
        return open_rasters(model.info, rasters)

    def _resolve(self, modality: str, given: str | Sequence[str], user: User) -> list[str]:
        names = [given] if isinstance(given, str) else list(given)
        if not names or len(names) > _MOST_FILES:
            raise Refusal(
                422, f"modality '{cut(modality)}' has {len(names)} rasters; give 1 to {_MOST_FILES}"
            )
        return [self._find(name, user) for name in names]

    def _find(self, name: str, user: User) -> str:
        if len(name) > _LONGEST:
            raise Refusal(422, f"'{cut(name)}' is too long for a raster's name")
        if name.startswith(PREFIX):
            return str(self.uploads.path(user, name))
        is_address = "://" in name or name.startswith("/vsi")
        if not is_address and not names_item(name):
            path = resolve(name, self.settings.roots)
            check_kind(path, name)
            return str(path)
        if is_address:
            self._check_address(name, user)
        if names_item(name):
            raise Refusal(422, f"'{cut(name)}' is no raster; give a STAC item as 'item'")
        check_address(name, name.partition("?")[0])
        return name

    def _check_address(self, address: str, user: User) -> None:
        """Refuse addresses of hosts that are not allowed, and what is not http(s).

        Raises:
            Refusal: It is one, or the user may name none.
        """
        require(user, "urls")
        problem = allowed_address(address, self.settings.url_hosts)
        if problem:
            raise Refusal(422, problem)

    def _check_scene(self, scene: Scene, model: ServedModel) -> None:
        grid = scene.grid
        if grid.height * grid.width > self.settings.max_pixels:
            raise Refusal(
                413,
                f"the scene has {grid.width:,} × {grid.height:,} pixels, and this service maps "
                f"scenes of up to {self.settings.max_pixels:,}. Cut it into parts",
            )
        held = {m.name for m in scene.modalities if m.name not in scene.missing}
        absent = [m.name for m in model.info.modalities if m.name not in held]
        if not absent:
            return
        said = self.supports_missing(model.name)
        if not (model.supports_missing if said is None else said):
            raise Refusal(
                422,
                f"model '{model.name}' needs every modality, and {', '.join(absent)} "
                f"{'is' if len(absent) == 1 else 'are'} missing. Give rasters of all",
            )


def allowed_address(address: str, hosts: Sequence[str]) -> str:
    """Say why an address is not read; "" if it may be.

    Args:
        hosts: Those that are allowed, with a port where it is not the usual one.
    """
    try:
        parts = urlsplit(address)
        host = (parts.hostname or "").lower()
        is_plain = parts.scheme in ("http", "https") and parts.username is None
        with_port = host if parts.port is None else f"{host}:{parts.port}"
    except ValueError:
        host, is_plain, with_port = "", False, ""
    if not is_plain or not address.isprintable() or not host:
        return (
            f"'{cut(_bare(address))}' is no address that this service reads: http:// and https:// "
            "without user name are allowed"
        )
    allowed = {name.lower() for name in hosts}
    if with_port in allowed:
        return ""
    known = ", ".join(sorted(allowed)) or "none"
    return f"this service reads nothing from host '{cut(with_port)}'; allowed: {known}"


def scene_of_item(info: RunInfo, address: str, hosts: Sequence[str]) -> Scene:
    """Open the rasters of a STAC item, once it is known that all are on hosts that are allowed.

    Raises:
        DataError: One is not: an item may name files of anybody; or is none of the known formats,
            which could name others; or the item is none, or does not suit the model.
    """
    item = read_item(address)
    held = [modality for modality in info.modalities if has_any(item, modality)]
    files = [file for modality in held for file in choose_assets(item, modality).files]
    for file in files:
        problem = allowed_address(file, hosts)
        if problem:
            raise DataError(problem)
    for file in files:
        check_address(file, _bare(file))
    return open_item(info, item)


def check_again(rasters: Mapping[str, Sequence[str]]) -> None:
    """Check rasters before they are read, as others may have been put in their places since.

    Raises:
        DataError: One is none of the known formats now, too large, or a link to elsewhere.
    """
    for path in (path for paths in rasters.values() for path in paths):
        if path.startswith(_WEB):
            check_address(path, _bare(path))
            continue
        place = Path(path)
        if place.is_symlink():  # they were followed when the job was submitted
            raise DataError(
                f"'{path}' has become a link since the job was submitted. Submit the job again"
            )
        if place.exists():  # what is gone is said by who reads it
            check_kind(place, path)


def as_asked(message: str) -> str:
    """A message with the remedies of the command line as those of a request."""
    for option, field in _FIELDS.items():
        message = re.sub(option, field, message)
    return message


@contextmanager
def _in_their_words(veil: Veil) -> Iterator[None]:
    try:
        yield
    except TerrafuseError as error:
        raise Refusal(422, veil(as_asked(str(error)))) from error


def _check_values(
    scene: Scene, model: ServedModel, conversions: Mapping[str, ValueConversion], trust: bool
) -> None:
    check_values(
        [scene.convert_values(conversions)],
        model.info.plain_statistics,
        conversions,
        trust=trust,
    )


def _check_settings(request: JobRequest, model: ServedModel) -> MapSettings:
    """Refuse products and windows that no scene can be mapped with."""
    settings = MapSettings(tuple(request.products), tuple(request.tta))
    _ = settings.layers, settings.views
    if request.outputs and "class_map" not in request.products:
        raise Refusal(
            422,
            f"{', '.join(request.outputs)} are made of the class map; add 'class_map' to "
            "'products', or leave 'outputs' empty",
        )
    model.windows(crop_size=request.crop_size, overlap=request.overlap)
    return settings


def _conversions(request: JobRequest, model: ServedModel) -> dict[str, ValueConversion]:
    names = [modality.name for modality in model.info.modalities]
    for name in request.convert:
        if name not in names:
            raise Refusal(
                422, f"'convert' names '{cut(name)}'; the model's modalities are {', '.join(names)}"
            )
    return {
        name: ValueConversion.parse(text, f"convert {name}")
        for name, text in request.convert.items()
    }


def _need_bytes(pixels: int, settings: MapSettings, classes: int) -> int:
    """Disk of a map at most: kept units, files with overviews, not compressed."""
    per_pixel = sum(
        _SIZES.get(product.dtype, 4) * product.bands(classes) for product in settings.layers
    )
    return pixels * per_pixel * 7 // 3 + _SMALL_FILES_BYTES


def _in_mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _bare(address: str) -> str:
    """An address without user name, password and query, which may be secrets."""
    return address.partition("?")[0].rpartition("@")[2]
