#!/usr/bin/env bash
# Measure zoo on the GPU of this machine: bash results/gpu.sh --help
set -euo pipefail
script=$(readlink -f -- "${BASH_SOURCE[0]}")  # it may be called through a link
root=$(dirname -- "$(dirname -- "$script")")
export PYTHONSAFEPATH=1  # modules that lie in the current folder are none of ours
python=${PYTHON:-python3}
if ! "$python" -c 'import packaging, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "gpu.sh: '$python' is no Python 3.11 or newer with torch and lightning: PYTHON=/its/python bash $0" >&2
  exit 2
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m results.gpu "$@"
