#!/usr/bin/env bash
# Measure zoo on the GPU of this machine: bash results/gpu.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m results.gpu "$@"
