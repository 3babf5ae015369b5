#!/bin/bash
# Trains on two machines without a scheduler. Run the same command on both, with the name of one of them first:
#   examples/two_nodes.sh first.example.org --recipe imagenet1k --model mixer-b/16 --out runs/base
# RANKS=2 examples/two_nodes.sh ... starts two processes on each machine in place of one for each of its GPUs.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 NAME_OF_THE_FIRST_MACHINE ARGUMENTS_OF_MIXONOMY_TRAIN..." >&2
    exit 2
fi
first=$1
shift
exec torchrun --nnodes 2 --nproc-per-node "${RANKS:-gpu}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id mixonomy --rdzv-endpoint "$first:${PORT:-29500}" \
    -m mixonomy train "$@"
