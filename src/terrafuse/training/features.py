"""Features of frozen backbones, kept from the first time that a window is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from terrafuse.backbones import Backbone
from terrafuse.config import RunConfig
from terrafuse.errors import ConfigError
from terrafuse.memory import free_memory
from terrafuse.modalities import Modality
from terrafuse.sampling import random_changes
from terrafuse.segmenter import SensorModel

# Part of the free memory for features by default, as for blocks of rasters.
_KEPT_PART = 4
_WITHOUT_KNOWN_MEMORY = 1 << 30

_Key = tuple[int, bytes, str]


def check_features(config: RunConfig, model: SensorModel) -> None:
    """Refuse to keep features that would change, or never be seen again.

    Raises:
        ConfigError: Lists all that stands against it.
    """
    if not config.training.cache_features:
        return
    against = [*_random(config, model.modalities)]
    if not any(_is_frozen(backbone, config) for backbone in model.backbones()):
        against.append(_what_learns(config, model))
    if against:
        raise ConfigError(
            f"training.cache_features keeps what a frozen backbone makes of unchanged windows, but "
            f"{'; '.join(against)}. Change that, or leave cache_features out"
        )


def _random(config: RunConfig, modalities: Sequence[Modality]) -> Iterator[str]:
    data = config.data
    if data.sampling != "grid":
        yield f"data.sampling is '{data.sampling}' (windows at random places, instead of 'grid')"
    if changes := random_changes(data.augment, modalities):
        named = ", ".join(f"data.augment.{name}" for name in changes)
        yield f"samples change at random by {named} (needed are false, 0, and a zoom of 1)"
    if data.modality_dropout:
        yield "data.modality_dropout drops modalities at random (to be 0)"


def _learning(backbone: Backbone, config: RunConfig) -> list[str]:
    """Names of parameters that will learn."""
    layers = {id(p) for p in chain.from_iterable(backbone.layer_groups())}
    stops = config.training.backbone_lr_factor == 0
    return [
        name
        for name, p in backbone.named_parameters()
        if p.requires_grad and not (stops and id(p) in layers)
    ]


def _is_frozen(backbone: Backbone, config: RunConfig) -> bool:
    return not _learning(backbone, config)


def _what_learns(config: RunConfig, model: SensorModel) -> str:
    found = list(chain.from_iterable(_learning(b, config) for b in model.backbones()))
    if not found:
        return "the method has no backbone"
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"no backbone is frozen entirely: '{found[0]}'{more} learn (method.tuning: frozen, or "
        "training.backbone_lr_factor: 0, freezes what pretrained weights set)"
    )


class FeatureCache:
    """Memory of what frozen backbones return, by the very values of an image.

    A sample is known by a digest of its image as the backbone sees it, so that what is returned is
    never of another window, other data or another normalisation; weights do not change while a
    cache lives. Samples are kept until the budget is used up, and then until the end: a lattice
    is gone through again and again, so that giving up the oldest ones would give up all. Scenes
    no larger than a window come again in every pass; of larger ones the lattice has 16 phases.

    Args:
        model: Those of its backbones that do not learn at all are kept.
        budget: Bytes.

    Attributes:
        hits: Samples that were known.
        misses: Samples that were not.
        used: Bytes of what is kept.
    """

    def __init__(self, model: SensorModel, budget: int) -> None:
        self.budget, self.used = budget, 0
        self.hits = self.misses = 0
        self._kept: dict[_Key, list[Tensor]] = {}
        self._is_active = False
        self._backbones = [
            backbone
            for backbone in model.backbones()
            if not any(p.requires_grad for p in backbone.parameters())
        ]
        for number, backbone in enumerate(self._backbones):
            # Of the instance, so that all that calls it as a layer comes here.
            backbone.forward = self._remembering(number, backbone.forward)  # type: ignore[method-assign]

    @property
    def told(self) -> str:
        """Words on what was kept and spared."""
        return (
            f"features: {len(self._kept):,} kept in {self.used / 1e6:,.1f} MB; {self.hits:,} of "
            f"{self.hits + self.misses:,} samples came from there"
        )

    def check_used(self, model: SensorModel) -> None:
        """Refuse a method that calls layers of its backbones instead of these.

        Raises:
            ConfigError: No backbone was called.
        """
        if not self.hits + self.misses:
            raise ConfigError(
                f"training.cache_features keeps what a whole backbone returns, and "
                f"{type(model).__name__} runs its parts one by one. Leave cache_features out"
            )

    def close(self) -> None:
        """Let the backbones be as they were, and forget."""
        for backbone in self._backbones:
            vars(backbone).pop("forward", None)
        self._backbones = []
        self._kept.clear()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Remember within this block; validation sees other windows, and averaged weights."""
        self._is_active = True
        try:
            yield
        finally:
            self._is_active = False

    def _remembering(
        self, number: int, forward: Callable[..., list[Tensor]]
    ) -> Callable[..., list[Tensor]]:
        def remembered(image: Tensor, *args: Any, **options: Any) -> list[Tensor]:
            if not self._is_active:
                return forward(image, *args, **options)
            asked = repr((args, sorted(options.items()), image.dtype, image.shape[1:]))
            keys: list[_Key] = [(number, _digest(one), asked) for one in image]
            new = [i for i, key in enumerate(keys) if key not in self._kept]
            self.hits += len(keys) - len(new)
            self.misses += len(new)
            if not new:
                return self._recall(keys, image.device, {})
            with torch.no_grad():
                levels = forward(image[new] if len(new) < len(keys) else image, *args, **options)
            fresh = {keys[i]: [level[at] for level in levels] for at, i in enumerate(new)}
            for key, maps in fresh.items():
                self._keep(key, maps)
            if len(new) == len(keys):
                return levels
            return self._recall(keys, image.device, fresh)

        return remembered

    def _keep(self, key: _Key, maps: Sequence[Tensor]) -> None:
        size = sum(x.numel() * x.element_size() for x in maps)
        if key not in self._kept and self.used + size <= self.budget:
            self._kept[key] = [x.detach().cpu().clone() for x in maps]
            self.used += size

    def _recall(
        self, keys: Sequence[_Key], device: torch.device, fresh: dict[_Key, list[Tensor]]
    ) -> list[Tensor]:
        samples = [fresh.get(key) or self._kept[key] for key in keys]
        return [torch.stack([x.to(device) for x in level]) for level in zip(*samples, strict=True)]


def feature_budget(megabytes: int | None) -> int:
    """Return the bytes for features: as set, else a quarter of the free memory."""
    if megabytes is not None:
        return megabytes << 20
    return (free_memory() or _WITHOUT_KNOWN_MEMORY * _KEPT_PART) // _KEPT_PART


def _digest(image: Tensor) -> bytes:
    values = image.detach().cpu().contiguous()
    return blake2b(values.view(torch.uint8).numpy().data, digest_size=16).digest()
