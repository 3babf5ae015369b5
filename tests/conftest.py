"""What all tests share: calm settings of torch and hypothesis, and the folder of real data beside the checkout."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # of torch, here and in the commands that tests start: each core has its tests

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("repeatable")
torch.manual_seed(0)  # for what is drawn while tests are collected


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers, whichever were run before it."""
    torch.manual_seed(0)


@pytest.fixture
def shared() -> Path:
    """The folder ../shared beside the checkout, with real data and reference values; skips where there is none."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data and ../shared/fixtures beside the checkout")
    return folder
