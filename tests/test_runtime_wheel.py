"""`terrafuse-runtime` in an environment of its own: an ONNX file and rasters in, the same map out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from terrafuse.classes import ClassScheme
from terrafuse.data import Scene, load_manifest
from terrafuse.exporting import to_onnx
from terrafuse.landscape import make_dataset
from terrafuse.methods import create_segmenter
from terrafuse.modalities import BandStatistics
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.segmenter import Segmenter
