"""Scenes that occur twice, possibly under another name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from terrafuse.data.scene import Scene
from terrafuse.doctor.findings import Finding, Severity

#: Scenes whose thumbnails correlate more than this show the same place.
ALIKE = 0.98
_SIDE = 32
# Pixels sampled per scene, about.
_LOOKED_AT = 1 << 18
# Scenes compared at once: limits memory to a block of this many rows.
_BLOCK = 1024
_MOST_NAMED = 6

_Prints = Mapping[str, tuple[str | None, "Fingerprint"]]


@dataclass(frozen=True)
class Fingerprint:
    """Digest and thumbnails by which two scenes are compared.

    Args:
        digest: Hash of all pixels sampled and of the names of their modalities.
        images: Per modality a grey thumbnail of mean 0 and norm 1, float16 (32 · 32,); without
            constant ones and, if there is any other, without elevation.
    """

    digest: str
    images: Mapping[str, NDArray[np.float16]] = field(default_factory=dict)


def fingerprint(scene: Scene) -> Fingerprint:
    """Compute the fingerprint of a scene; of large ones, only every n-th pixel is sampled.

    Raises:
        RasterReadError: Pixels cannot be decoded.
    """
    step = max(1, int((scene.grid.height * scene.grid.width / _LOOKED_AT) ** 0.5))
    # Slopes and plains look alike even in different places.
    seen = [m for m in scene.modalities if m.name not in scene.missing]
    telling = {m.name for m in seen if m.kind not in ("elevation", "structure")}
    telling = telling or {m.name for m in seen}
    sha = hashlib.sha256()
    images = {}
    for name, image in scene.read_decimated(step).items():
        sha.update(f"{name} {image.shape}".encode())
        sha.update(np.where(np.isnan(image), np.float32(-1e30), image).tobytes())
        small = _shrink(image) if name in telling else None
        if small is not None:
            images[name] = small
    return Fingerprint(sha.hexdigest(), images)


def find_duplicates(prints: _Prints) -> list[Finding]:
    """Find groups of scenes that are equal or nearly so.

    Args:
        prints: Scene id → (split, fingerprint).

    Returns:
        "leak" for groups over several splits, "duplicate" for those within one.
    """
    ids = list(prints)
    equal = _group(len(ids), _equal_pairs([prints[id][1].digest for id in ids]))
    alike = _group(len(ids), _alike_pairs([prints[id][1] for id in ids]))
    known = {frozenset(group) for group in equal}
    findings = [_describe([ids[i] for i in group], prints, "identical") for group in equal]
    findings += [
        _describe([ids[i] for i in group], prints, "nearly identical")
        for group in alike
        if frozenset(group) not in known
    ]
    return findings


def _shrink(image: NDArray[np.float32]) -> NDArray[np.float16] | None:
    """Average the standardized bands of (C, H, W) to a thumbnail; None where nothing varies."""
    known = np.isfinite(image)
    if not known.any():
        return None
    bands = []
    for band, own in zip(image, known, strict=True):
        values = band[own].astype(np.float64)  # fill may be as large as a float32 can
        if own.any() and (spread := values.std()) > 0:
            bands.append(np.where(own, (band - values.mean()) / spread, 0))
    if not bands:
        return None
    grey = torch.from_numpy(np.mean(bands, axis=0, dtype=np.float32))[None]
    small = adaptive_avg_pool2d(grey, (_SIDE, _SIDE)).numpy().ravel()
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    return (small / length).astype(np.float16) if length > 1e-3 else None


def _equal_pairs(digests: Sequence[str]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for i, digest in enumerate(digests):
        j = first.setdefault(digest, i)
        if j != i:
            yield j, i


def _alike_pairs(prints: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Yield pairs whose correlation, averaged over the modalities that both have, is high."""
    names = sorted({name for each in prints for name in each.images})
    empty = np.zeros(_SIDE**2, np.float16)
    stacks = [np.stack([each.images.get(name, empty) for each in prints]) for name in names]
    has = np.array([[name in each.images for name in names] for each in prints], np.float32)
    for start in range(0, len(prints) if names else 0, _BLOCK):
        rows = slice(start, start + _BLOCK)
        total = np.zeros((len(has[rows]), len(prints) - start), np.float32)
        for stack in stacks:
            total += stack[rows].astype(np.float32) @ stack[start:].astype(np.float32).T
        total /= np.maximum(has[rows] @ has[start:].T, 1)
        for i, j in np.argwhere(np.triu(total, 1) > ALIKE).tolist():
            yield start + i, start + j


def _group(count: int, pairs: Iterator[tuple[int, int]]) -> list[list[int]]:
    """Group indices that belong together, directly or through others; groups of two or more."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    groups: dict[int, list[int]] = {}
    for i in range(count):
        groups.setdefault(root(i), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _describe(ids: Sequence[str], prints: _Prints, how: str) -> Finding:
    splits = {prints[id][0] for id in ids}
    leaks = len(splits - {None}) > 1
    named = [f"'{id}'" + (f" ({prints[id][0]})" if leaks else "") for id in ids[:_MOST_NAMED]]
    more = f" and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else ""
    message = f"scenes {', '.join(named)}{more} are {how}"
    if leaks:
        remedy = (
            "What is learned from one is scored on the other: scores come out too good. Keep one "
            "of them, or give all the same 'split'"
        )
        return Finding("warning", "leak", message, ids[0], remedy=remedy)
    severity: Severity = "warning" if how == "identical" else "note"
    remedy = "It counts several times; keep one, unless that is intended"
    return Finding(severity, "duplicate", message, ids[0], remedy=remedy)
