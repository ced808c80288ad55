"""Temperature scaling: one number that all logits are divided by, so that confidences fit.

With β = 1 / T, l the log-probabilities of a pixel and y its class, the negative log-likelihood is
Σ ln Σ_k exp(β l_k) − β l_y: convex in β. Its sums and those of its derivative, Σ E_p[l] − l_y, are
taken at a grid of β while pixels pass by once, and the zero of the derivative is found between its
neighbours. Dividing logits by one number changes no class.

Reference:
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks. ICML 2017.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator
from scipy.optimize import brentq
from torch import Tensor

#: Least and largest temperature.
LEAST, LARGEST = 0.05, 20.0
# Neighbours differ by 2^(1/4): the zero between them is then known to 1e-4.
# The ends are cut to the range, and 1 is one of them.
_GRID = np.clip(2.0 ** (np.arange(-18, 19) / 4), 1 / LARGEST, 1 / LEAST)
# Pixels at a time; their logits, in double precision, stay in the cache of a CPU.
_CHUNK = 2**14


class TemperatureSums:
    """Sums that a temperature is fitted from, over any number of pixels."""

    def __init__(self) -> None:
        self.betas = _GRID
        #: Of the negative log-likelihood, and of its derivative, at each β (G,).
        self.nll, self.slope = np.zeros(len(self.betas)), np.zeros(len(self.betas))
        self.pixels = 0

    def add(self, logits: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
        """Add labelled pixels.

        Args:
            logits: Or log-probabilities, (K, n).
            labels: Classes (n,), all below K.
        """
        for start in range(0, len(labels), _CHUNK):
            part = slice(start, start + _CHUNK)
            values = torch.from_numpy(np.ascontiguousarray(logits[:, part])).double()
            true = torch.from_numpy(labels[part].astype(np.int64))
            self._add(values - values.max(dim=0).values, true)
        self.pixels += len(labels)

    def _add(self, values: Tensor, true: Tensor) -> None:
        own = values.gather(0, true[None])[0]
        for g, beta in enumerate(self.betas):
            weights = (values * beta).exp_()
            total = weights.sum(dim=0)
            mean = (weights * values).sum(dim=0) / total
            self.nll[g] += float((total.log() - beta * own).sum())
            self.slope[g] += float((mean - own).sum())

    def best(self) -> float:
        """The temperature of the least negative log-likelihood; an end of the range at most.

        Pixels that are all right would be fitted best by a temperature of 0, and random classes by
        one without end: there, it is the end of the range.
        """
        if not self.pixels or self.slope[0] >= 0:
            return LARGEST
        if self.slope[-1] <= 0:
            return LEAST
        after = int(np.argmax(self.slope >= 0))
        # The derivative rises with β; monotone cubics through the neighbours keep that.
        places = slice(max(0, after - 2), after + 2)
        logs = np.log(self.betas[places])
        curve = PchipInterpolator(logs, self.slope[places])
        ends = np.log(self.betas[after - 1 : after + 1])
        return float(np.exp(-brentq(curve, *ends, xtol=1e-12)))

    def mean_nll(self, temperature: float) -> float:
        """Mean negative log-likelihood of a pixel at a temperature of the range, in nats."""
        # The grid holds 1, whose value is not interpolated.
        curve = CubicHermiteSpline(self.betas, self.nll, self.slope)
        return float(curve(1 / temperature)) / self.pixels
