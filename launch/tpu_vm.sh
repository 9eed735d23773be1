#!/usr/bin/env bash
# Runs an experiment on every host of a Cloud TPU slice, with gcloud alone.
#
#     launch/tpu_vm.sh my-slice us-east5-a v5p-128 experiments.pretrain --preset colab --mesh.fsdp 64
#
# All hosts must see the same run folder: here a bucket, mounted at /mnt/runs. Make it with
# --enable-hierarchical-namespace: a checkpoint is final when its folder is renamed. The slice is
# made if it is not there, and left running: delete it with `gcloud compute tpus tpu-vm delete`.
# After a preemption run the same command again: it resumes.
set -euo pipefail

BUCKET=${BUCKET:?set BUCKET to the name of a bucket for the runs}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5}  # the VM image: https://cloud.google.com/tpu/docs/runtimes
name=$1 zone=$2 type=$3 experiment=$4
shift 4

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$1"
}

if ! gcloud compute tpus tpu-vm describe "$name" --zone "$zone" >/dev/null 2>&1; then
  gcloud compute tpus tpu-vm create "$name" --zone "$zone" --accelerator-type "$type" \
    --version "$RUNTIME"
fi

tar --exclude .git --exclude runs -czf /tmp/gpt_jax.tar.gz -C "$(dirname "$0")/.." .
gcloud compute tpus tpu-vm scp /tmp/gpt_jax.tar.gz "$name": --zone "$zone" --worker=all
on_all_hosts "
  set -e
  mkdir -p gpt_jax && tar -xzf gpt_jax.tar.gz -C gpt_jax && cd gpt_jax
  python3 -m venv .venv && .venv/bin/pip install --quiet -e '.[tpu]'
  sudo mkdir -p /mnt/runs && sudo chown \$USER /mnt/runs
  mountpoint -q /mnt/runs || gcsfuse --implicit-dirs $BUCKET /mnt/runs"

# JAX finds the other hosts in the VM's metadata.
on_all_hosts "
  cd gpt_jax &&
  exec .venv/bin/python -m $experiment --coordinator auto --run-dir /mnt/runs/$name $*"
