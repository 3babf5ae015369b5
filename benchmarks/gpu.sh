#!/usr/bin/env bash
# Everything to do on a machine with a GPU: the numbers are right, then how fast, then the CIFAR-10 recipe.
#
#   MIXONOMY_DATA=/data benchmarks/gpu.sh     rows go to results/, the run to runs/cifar10-gpu; needs no network
#   benchmarks/gpu.sh --dry                   the same steps, tiny, on the CPU, into a temporary folder
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}

case "${1:-}" in
  "")
    device=cuda results=results run=runs/cifar10-gpu quick=() muon_steps=30
    recipe=(--data cifar10)
    ;;
  --dry)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    device=cpu results=$scratch run=$scratch/run quick=(--quick) muon_steps=0
    recipe=(--data digits --duration "2 steps")
    ;;
  *)
    echo "benchmarks/gpu.sh: unknown option $1; use --dry or nothing." >&2
    exit 2
    ;;
esac

"$python" benchmarks/agreement.py --device "$device" ${quick[@]+"${quick[@]}"}
"$python" benchmarks/train.py --device "$device" --results "$results/train.jsonl" ${quick[@]+"${quick[@]}"}
"$python" benchmarks/infer.py --device "$device" --results "$results/infer.jsonl" ${quick[@]+"${quick[@]}"}
"$python" benchmarks/curves.py --device "$device" --results "$results/curves.jsonl" ${quick[@]+"${quick[@]}"}
if [ "$muon_steps" -gt 0 ]; then # emulated bfloat16 makes torch's Muon take seconds on a CPU
  "$python" benchmarks/muon.py --device "$device" --steps "$muon_steps" --results "$results/muon.jsonl"
fi
"$python" -m mixonomy train "${recipe[@]}" --device "$device" --out "$run" --json
