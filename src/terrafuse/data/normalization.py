"""The data set as a run's settings describe it, and the statistics that normalise it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from terrafuse.config import DataConfig, FixedStatistics
from terrafuse.data.manifest import Manifest, load_manifest
from terrafuse.data.rasters import RescaleName
from terrafuse.errors import ConfigError, SceneNotFoundError, unknown_name
from terrafuse.modalities import BandStatistics, Modality

_IDENTITY = FixedStatistics(mean=0.0, std=1.0)


def open_dataset(config: DataConfig, *, is_labelled: bool = True) -> Manifest:
    """Open the manifest of a run: its modalities, rescaled where `normalization` says so.

    Painted polygons (`data.painted`) lie over the labels of scenes of the training splits.

    Args:
        config: Manifest, modalities, training splits and normalisation. `normalization` may name
            modalities that are not used, so that a run without them needs no other settings.
        is_labelled: Whether labels are learnt from; else painted polygons are not looked at.

    Raises:
        ConfigError: An invalid manifest; an unknown modality; a split named twice; a
            normalisation that does not fit the bands.
        SceneNotFoundError: A training split does not exist.
        DataError: Painted polygons cannot be used.
    """
    manifest = load_manifest(config.manifest).select(config.modalities)
    _check_splits(config.train_splits, manifest)
    for name, wanted in config.normalization.items():
        if name not in manifest.known:
            raise ConfigError(
                "data.normalization: " + unknown_name("modality", name, manifest.known)
            )
        if isinstance(wanted, FixedStatistics):
            _per_band(manifest.known[name], "mean", wanted.mean)
            _per_band(manifest.known[name], "std", wanted.std)
    rescaled: dict[str, RescaleName | None] = {
        name: "scene_range" for name, how in config.normalization.items() if how == "scene_range"
    }
    if is_labelled:
        manifest = manifest.paint(config.painted, config.train_splits)
    return manifest.with_rescale(rescaled)


def apply_normalization(
    statistics: Mapping[str, BandStatistics], manifest: Manifest, config: DataConfig
) -> dict[str, BandStatistics]:
    """Apply the mean and deviation that the settings fix; percentiles stay as measured.

    Args:
        statistics: Per modality, measured on scenes of `manifest`.
        manifest: As returned by `open_dataset`.
        config: Settings it was opened with.
    """
    result = {}
    for name, measured in statistics.items():
        how = config.normalization.get(name, "measured")
        fixed = _IDENTITY if how == "scene_range" else how
        if isinstance(fixed, FixedStatistics):
            modality = manifest.modalities[name]
            mean = _per_band(modality, "mean", fixed.mean)
            std = _per_band(modality, "std", fixed.std)
            measured = replace(measured, mean=mean, std=std)
        result[name] = measured
    return result


def _check_splits(splits: Sequence[str], manifest: Manifest) -> None:
    if len(set(splits)) != len(splits):
        raise ConfigError(f"data.train_splits must name each split once; got {list(splits)}")
    for split in splits:
        if split not in manifest.splits:
            raise SceneNotFoundError(
                f"data.train_splits: {unknown_name('split', split, manifest.splits)} Set 'split: "
                f"{split}' for scenes of '{manifest.path}', or let terrafuse data split do it"
            )


def _per_band(modality: Modality, key: str, given: float | tuple[float, ...]) -> tuple[float, ...]:
    """Expand to one value per band.

    Raises:
        ConfigError: There is neither one value nor one per band.
    """
    values = given if isinstance(given, tuple) else (given,)
    if len(values) == 1:
        return values * len(modality.bands)
    if len(values) != len(modality.bands):
        raise ConfigError(
            f"data.normalization.{modality.name}.{key} has {len(values)} values, but modality "
            f"'{modality.name}' has {len(modality.bands)} bands ({', '.join(modality.bands)}). "
            "Give one value for all, or one per band"
        )
    return values
