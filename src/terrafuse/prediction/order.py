"""What a process needs to map rectangles of a scene."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

from terrafuse.prediction.blending import Strip
from terrafuse.prediction.devices import Device
from terrafuse.prediction.products import MapWriter
from terrafuse.prediction.profile import MapProfile
from terrafuse.prediction.queues import write_behind
from terrafuse.prediction.scene_model import SceneModel
from terrafuse.prediction.settings import MapSettings
from terrafuse.progress import Progress
from terrafuse.samples import Window

if TYPE_CHECKING:
    from terrafuse.data.scene import Scene


class Mapper(Protocol):
    """A model that maps scenes: a `ScenePredictor`."""

    @property
    def device(self) -> Device:
        """Of the model."""

    @property
    def model(self) -> SceneModel:
        """What scores pixels."""

    def on(self, device: str) -> Self:
        """Return the same, on another device."""

    def on_cpu(self) -> AbstractContextManager[None]:
        """Have the model on the CPU for a while, as it is sent to processes."""

    def stream(
        self,
        scene: Scene,
        *,
        without: frozenset[str] | set[str] = ...,
        settings: MapSettings | None = ...,
        window: Window | None = ...,
        progress: Progress | None = ...,
        profile: MapProfile | None = ...,
    ) -> Generator[Strip, None, None]:
        """Yield the map of a scene, or of a window of it, in strips."""


@dataclass(frozen=True)
class MapOrder:
    """What a worker needs to map rectangles of a scene; can be sent to another process.

    Args:
        predictor: With its model.
        writer: Of the map.
        options: Further arguments of its `stream`.
    """

    predictor: Mapper
    scene: Scene
    writer: MapWriter
    options: Mapping[str, Any]

    @property
    def device(self) -> Device:
        """Of the model."""
        return self.predictor.device

    def on(self, device: str) -> MapOrder:
        """Return the same, on another device."""
        return replace(self, predictor=self.predictor.on(device))

    def on_cpu(self) -> AbstractContextManager[None]:
        """See `ScenePredictor`."""
        return self.predictor.on_cpu()

    def packed(self) -> bytes:
        """The order for a process that this one starts.

        Raises:
            ModelError: The model holds what cannot be sent.
        """
        with self.on_cpu():
            return pickle.dumps(self)  # torch's own way for processes needs shared memory

    def map(self, window: Window, profile: MapProfile, progress: Progress | None = None) -> None:
        """Map a rectangle of units and keep them."""

        def write(strip: Strip) -> None:
            with profile.timed("writing"):
                self.writer.write(strip)

        self.writer.drop()
        with write_behind(write) as put:
            strips = self.predictor.stream(
                self.scene, window=window, progress=progress, profile=profile, **self.options
            )
            with closing(strips):
                for strip in strips:
                    with profile.timed("waiting for writing"):
                        put(strip)

    def map_apart(self, window: Window, progress: Progress | None = None) -> MapProfile:
        """Map a rectangle in a worker; return what that took."""
        profile = MapProfile()
        profile.begin(0)  # the parent counts the pixels of the scene
        self.map(window, profile, progress)
        profile.end()
        return profile
