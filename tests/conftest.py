"""What all tests share: calm settings of torch and hypothesis, and the folder of real data beside the checkout."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("repeatable")
torch.set_num_threads(1)  # inputs are tiny, and the suite may share its cores with a training run


@pytest.fixture
def shared() -> Path:
    """The folder ../shared beside the checkout, with real data and reference values; skips where there is none."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data and ../shared/fixtures beside the checkout")
    return folder
