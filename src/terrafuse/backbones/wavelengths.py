"""Wavelengths of bands, in the form that DOFA expects.

DOFA generates the kernels of a band from its wavelength, by a code so sharp that 5 nm change it;
pre-training covered few values. `snap_wavelength` therefore returns the value that pre-training
used for such a band. These values are the authors' published ones; the choice of neighbours
(within 30 nm) is ours.

Reference: Xiong et al., "Neural plasticity-inspired foundation model for observing the Earth
crossing modalities" (DOFA), 2024, arXiv 2403.15356.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Literal

from terrafuse.errors import ModelError
from terrafuse.modalities import Modality

#: "snap": the value used in pre-training for such a band; "exact": the value unchanged.
WavelengthPolicy = Literal["snap", "exact"]

#: Placeholder for radar, by version of DOFA; not a wavelength (C band has 55 500 µm). Version 1 was
#: trained with an arbitrary value, version 2 with the carrier frequency in GHz (per the authors).
SAR_UM: Mapping[int, float] = {1: 3.75, 2: 5.405}
#: Start of a learned band (`None`): red, so that a surface model begins as a grey image.
START_UM = 0.665
#: Multispectral values of pre-training (Sentinel-2, Gaofen-2, NAIP).
SEEN_UM = (0.49, 0.56, 0.665, 0.705, 0.74, 0.783, 0.83, 0.842, 1.61, 2.19)
#: Largest distance to the nearest of `SEEN_UM`, in micrometres.
SNAP_UM = 0.030

_GAOFEN = {"B": (0.485, 0.49), "G": (0.555, 0.56), "R": (0.660, 0.665), "NIR": (0.830, 0.83)}
#: Sensor → band → centre of the band and the value for DOFA, in micrometres. None: depends on the
#: camera, and the data do not say. Radar is as in version 1. 0.445, 0.864 and 0.944 are EnMAP
#: values of pre-training; 1.375 lies in a gap of it.
SENSORS: Mapping[str, Mapping[str, tuple[float | None, float]]] = {
    "GF-1 PMS": _GAOFEN,
    "GF-2 PMS": _GAOFEN,
    "GF-3": {"any": (None, SAR_UM[1])},
    "Sentinel-1": {"VV": (None, SAR_UM[1]), "VH": (None, SAR_UM[1])},
    "Sentinel-2": {
        "B1": (0.443, 0.445), "B2": (0.490, 0.49), "B3": (0.560, 0.56), "B4": (0.665, 0.665),
        "B5": (0.705, 0.705), "B6": (0.740, 0.74), "B7": (0.783, 0.783), "B8": (0.842, 0.842),
        "B8A": (0.865, 0.864), "B9": (0.945, 0.944), "B10": (1.375, 1.375), "B11": (1.610, 1.61),
        "B12": (2.190, 2.19),
    },
    "ISPRS Vaihingen": {"NIR": (None, 0.83), "R": (None, 0.665), "G": (None, 0.56)},
    "ISPRS Potsdam": {
        "R": (None, 0.665), "G": (None, 0.56), "B": (None, 0.49), "NIR": (None, 0.83),
    },
    "NAIP": {"R": (0.64, 0.665), "G": (0.56, 0.56), "B": (0.48, 0.49), "NIR": (0.81, 0.83)},
}  # fmt: skip

_KNOWN = {
    value: used
    for bands in SENSORS.values()
    for centre, used in bands.values()
    for value in (centre, used)
    if value is not None
}
# Half a nanometre: covers two ways of rounding the same number.
_SAME_UM = 0.0005
# Beyond thermal infrared: a wavelength given in nanometres, or a radar's.
_LARGEST_UM = 20.0


def snap_wavelength(um: float, policy: WavelengthPolicy = "snap") -> float:
    """Map the wavelength of a band to the one given to DOFA.

    Args:
        um: Centre of the band, in micrometres.
        policy: "snap" gives the value in `SENSORS` for this centre, else the nearest of `SEEN_UM`
            up to 30 nm away, else `um`. "exact" gives `um`.

    Raises:
        ModelError: Not a wavelength in micrometres.
    """
    if not isfinite(um) or not 0 < um <= _LARGEST_UM:
        raise ModelError(
            f"a wavelength is {um:g} µm; allowed is what an optical or thermal band has, above 0 "
            f"and up to {_LARGEST_UM:g}. Give micrometres (490 nm are 0.49); radar has kind 'sar' "
            "and no wavelength"
        )
    if policy == "exact":
        return um
    centre = min(_KNOWN, key=lambda known: abs(known - um))
    if abs(centre - um) <= _SAME_UM:
        return _KNOWN[centre]
    seen = min(SEEN_UM, key=lambda value: abs(value - um))
    return seen if abs(seen - um) <= SNAP_UM + 1e-9 else um


def band_codes(
    modality: Modality, version: int = 1, policy: WavelengthPolicy = "snap"
) -> tuple[float | None, ...]:
    """Return DOFA's code for each band of a modality, from its kind and wavelengths.

    Args:
        version: 1 or 2, of DOFA.
        policy: As in `snap_wavelength`.

    Returns:
        Per band a wavelength in micrometres (radar: the version's placeholder), or None for a
        band that has none (surface models and the like), whose embedding is learned.

    Raises:
        ModelError: An optical modality without wavelengths.
    """
    if modality.kind == "sar":
        return (SAR_UM[version],) * len(modality.bands)
    if modality.wavelengths_um is not None:
        return tuple(snap_wavelength(um, policy) for um in modality.wavelengths_um)
    if modality.kind == "optical":
        raise ModelError(
            f"optical modality '{modality.name}' has no wavelengths, and DOFA needs one for each "
            f"of its bands ({', '.join(modality.bands)}). Add wavelengths_um, in micrometres, to "
            "the modality in dataset.yaml (Sentinel-2 B4, B3, B2: [0.665, 0.56, 0.49]); "
            "`terrafuse.backbones.wavelengths.SENSORS` lists further sensors"
        )
    return (None,) * len(modality.bands)
