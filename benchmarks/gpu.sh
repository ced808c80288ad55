#!/bin/bash
# What a GPU does with every method, in at most eight minutes; see benchmarks/gpu.py.
#
#     benchmarks/gpu.sh [--out FOLDER] [--methods cmx mfnet …] [--seconds 450]
#     benchmarks/gpu.sh --device cpu --quick      that the script works, without a GPU
#
# PYTHON names the Python to use. Nothing is fetched, and no setting of the device is changed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv 2>/dev/null || true
exec timeout --signal=INT 480 "${PYTHON:-python}" "$here/gpu.py" "$@"
