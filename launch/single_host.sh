#!/usr/bin/env bash
# Trains on all accelerators of this machine: one process drives them all.
#
#   CONFIG=configs/zegclip/coco_stuff_inductive.py launch/single_host.sh
#   launch/single_host.sh --config.train.batch_size=32 --config.mesh.fsdp=2
#
# Environment (with defaults): CONFIG, DTYPE=bfloat16, WORKDIR (chosen by the recipe's name),
# PYTHON=python3, CACHE_DIR (compiled programs, so that a restart does not compile again).
# Arguments go to ovseg_jax.main. The same command resumes a run that was stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

CONFIG=${CONFIG:-configs/zegclip/coco_stuff_inductive.py}
DTYPE=${DTYPE:-bfloat16}
PYTHON=${PYTHON:-python3}
export JAX_COMPILATION_CACHE_DIR=${CACHE_DIR:-runs/compiled}

"$PYTHON" -c 'import jax; print(jax.device_count(), "x", jax.devices()[0].device_kind)'
exec "$PYTHON" -m ovseg_jax.main --config "$CONFIG" --config.dtype="$DTYPE" \
  ${WORKDIR:+--workdir "$WORKDIR"} "$@"
