"""Logits of our Mixers on a device, in float32 and bfloat16, against float64 on the CPU.

    python benchmarks/agreement.py --device cuda

The device is set up as `mixonomy train` sets it up, so float32 may be TF32 on a GPU. Exit status 1 if a
difference is larger than allowed.
"""

import argparse
import copy

import torch

from mixonomy import devices
from mixonomy.bench.step import Case, batch, build
from train import CASES, TINY

# Largest allowed difference, as a share of the logits' norm: unit roundoff (fp32: TF32's 2^-11, bf16: 2^-8) times 8.
TOLERANCES: dict[devices.Precision, float] = {"fp32": 8 * 2.0**-11, "bf16": 8 * 2.0**-8}


@torch.inference_mode()
def differences(case: Case, device: torch.device) -> dict[devices.Precision, float]:
    """Norm of the difference over the norm of the float64 logits, by precision."""
    model = build(case).eval()
    images = batch(case, torch.device("cpu"))[0][:8] / 127.5 - 1.0
    exact = copy.deepcopy(model).double()(images.double())
    model, found = model.to(device), {}
    for precision in TOLERANCES:
        with devices.autocast(device, precision):
            logits = model(images.to(device)).cpu().double()
        found[precision] = float((logits - exact).norm() / exact.norm())
    return found


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny model only")
    options = parser.parse_args()
    device = devices.resolve_device(options.device)
    devices.prepare(device)
    worst = 0.0
    for name, case in {"tiny": TINY}.items() if options.quick else CASES.items():
        for precision, found in differences(case, device).items():
            print(
                f"{name}, {precision} on {device}: differs from float64 by {found:.1e} of {TOLERANCES[precision]:.1e}"
            )
            worst = max(worst, found / TOLERANCES[precision])
    if worst > 1.0:
        print("the logits differ by more than rounding explains; nothing else is worth measuring here.")
    return 1 if worst > 1.0 else 0


if __name__ == "__main__":
    raise SystemExit(main())
