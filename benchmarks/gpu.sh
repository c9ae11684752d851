#!/bin/sh
# The benchmarks of an NVIDIA machine, in less than ten minutes: benchmarks/gpu.sh
# Writes benchmarks/results_gpu.json. PYTHON=... chooses an interpreter with repalign installed.
set -eu
cd "$(dirname "$0")/.."
# one GPU: with several, trainers would split every batch
CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}" PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True exec \
    "${PYTHON:-python}" -m benchmarks.gpu
