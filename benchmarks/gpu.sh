#!/usr/bin/env bash
# Everything to do on a machine with a GPU: the numbers are right, then how fast, then the CIFAR-10 recipe.
# "of limit" is the share of the measured matrix rate that a model's products reach (MFU): of training Mixer-B/16 the
# target is 55 %, of inference 65 %.
#
#   MIXONOMY_DATA=/data benchmarks/gpu.sh     rows go to results/, the run to runs/cifar10-gpu; needs no network
#   benchmarks/gpu.sh train infer             these steps only, where a machine ends commands that take long
#   benchmarks/gpu.sh --dry                   the same steps, tiny, on the CPU, into a temporary folder
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}

steps=(agreement train infer curves muon recipe)
device=cuda results=results run=runs/cifar10-gpu quick=() muon_steps=30
settings=("timm fp32" "timm bf16 autocast" "timm compiled bf16" ours "ours compiled") # of train and infer
recipe=(--data cifar10)
case "${1:-}" in
  --dry)
    shift
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    device=cpu results=$scratch run=$scratch/run quick=(--quick) muon_steps=0
    settings=("timm fp32" ours) # compiling takes minutes on a CPU
    recipe=(--data digits --duration "2 steps")
    ;;
esac
for step in "$@"; do
  if [[ " ${steps[*]} " != *" $step "* ]]; then
    echo "benchmarks/gpu.sh: unknown step $step; use --dry, and some of ${steps[*]}, or all of them by naming none." >&2
    exit 2
  fi
done
[ "$#" -eq 0 ] || steps=("$@")
is_wanted() { [[ " ${steps[*]} " == *" $1 "* ]]; }

measure() { # STEP, its script, and what it is told beside the device
  ! is_wanted "$1" || "$python" "benchmarks/$1.py" --device "$device" "${@:2}" ${quick[@]+"${quick[@]}"}
}

measure agreement
measure train --results "$results/train.jsonl" --rounds 2 --cases cifar mixer-b/16 --settings "${settings[@]}"
measure infer --results "$results/infer.jsonl" --batch-sizes 1 8 64 256 --settings "${settings[@]}"
measure curves --results "$results/curves.jsonl"
if is_wanted muon && [ "$muon_steps" -gt 0 ]; then # emulated bfloat16 makes torch's Muon take seconds on a CPU
  "$python" benchmarks/muon.py --device "$device" --steps "$muon_steps" --results "$results/muon.jsonl"
fi
! is_wanted recipe || "$python" -m mixonomy train "${recipe[@]}" --device "$device" --out "$run" --json
