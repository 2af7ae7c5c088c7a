#!/usr/bin/env bash
# Trains on a Cloud TPU slice: creates it, installs this clone on all workers, runs on all of them,
# and does so again after a preemption; the run resumes from its last checkpoint.
#
#   PROJECT=my-project ZONE=europe-west4-a BUCKET=my-bucket launch/tpu_pod.sh
#   … CONFIG=configs/zegclip/voc_inductive.py launch/tpu_pod.sh --config.mesh.fsdp=4
#
# Needs the gcloud command, logged in, and quota for the slice. What is committed is what runs.
# Environment (with defaults):
#   PROJECT, ZONE           required
#   BUCKET                  required: name of the bucket that holds `runs`, and `data` and `models`
#                           for the recipes that read them; every worker mounts it
#   NAME=ovseg              name of the slice
#   TYPE=v6e-16             accelerator type
#   VERSION=v2-alpha-tpuv6e software version that goes with the type
#   SPOT=true               spot capacity: cheaper, may be taken away at any time
#   CONFIG, DTYPE=bfloat16  recipe and compute type
#   MOUNT                   command that makes ~/shared the bucket; the default needs gcsfuse there
#   KEEP=false              true: leave the slice up when the training has ended
# Arguments go to ovseg_jax.main.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${PROJECT:?set PROJECT to the Google Cloud project}"
: "${ZONE:?set ZONE to the zone of the slice}"
: "${BUCKET:?set BUCKET to the name of a bucket for runs and data}"
NAME=${NAME:-ovseg}
TYPE=${TYPE:-v6e-16}
VERSION=${VERSION:-v2-alpha-tpuv6e}
SPOT=${SPOT:-true}
CONFIG=${CONFIG:-configs/zegclip/coco_stuff_inductive.py}
DTYPE=${DTYPE:-bfloat16}
# Checkpoints become complete by renaming a folder, which plain buckets do file by file.
MOUNT=${MOUNT:-mountpoint -q ~/shared || gcsfuse --implicit-dirs --rename-dir-limit 100000 $BUCKET ~/shared}
KEEP=${KEEP:-false}

tpu() { gcloud compute tpus tpu-vm "$@" --project "$PROJECT" --zone "$ZONE"; }
on_all_workers() { tpu ssh "$NAME" --worker all --command "$1"; }
state() { tpu describe "$NAME" --format 'value(state)' 2>/dev/null || echo ABSENT; }

create() {
  local options=(--accelerator-type "$TYPE" --version "$VERSION")
  if [[ $SPOT == true ]]; then options+=(--spot); fi
  tpu create "$NAME" "${options[@]}"
}

install() {
  local archive
  archive=$(mktemp)
  git archive --format tar.gz --output "$archive" HEAD
  tpu scp "$archive" "$NAME":ovseg.tar.gz --worker all
  rm "$archive"
  on_all_workers "set -e; mkdir -p ovseg ~/shared; tar -xzf ovseg.tar.gz -C ovseg; cd ovseg
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --upgrade pip
    .venv/bin/python -m pip install --quiet '.[data]' 'jax[tpu]'"
}

train() {
  local arguments
  printf -v arguments ' %q' --config "$CONFIG" --config.dtype="$DTYPE" "$@"
  on_all_workers "set -e; $MOUNT; cd ovseg
    for folder in runs data models; do mkdir -p ~/shared/\$folder; ln -sfn ~/shared/\$folder .; done
    .venv/bin/python -m ovseg_jax.main --distributed$arguments"
}

installed=false
while true; do
  case $(state) in
    READY)
      if [[ $installed == false ]]; then install; fi
      installed=true
      if train "$@"; then break; fi
      sleep 60 # until a preemption shows in the state
      if [[ $(state) == READY ]]; then
        echo "the training failed on $NAME, which is still up: see above, then run this again" >&2
        exit 1
      fi
      ;;
    ABSENT)
      installed=false
      create || sleep 60 # no capacity at the moment
      ;;
    CREATING | STARTING | RESTARTING | REPAIRING | STOPPING | DELETING) sleep 30 ;;
    *) tpu delete "$NAME" --quiet ;; # PREEMPTED, TERMINATED, …: it does not come back by itself
  esac
done
if [[ $KEEP != true ]]; then tpu delete "$NAME" --quiet; fi
