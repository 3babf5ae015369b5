"""What the tests of exported files share: small models with everything beside their weights, and odd images."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import mixonomy as mx
from mixonomy.models import info_of, set_info

NAMES = ("ant", "bee", "cat")
SIZES = {
    "mixer": {"patch_size": 4, "hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 32},
    "vit": {"patch_size": 4, "hidden_dim": 16, "num_blocks": 2, "num_heads": 2, "channels_mlp_dim": 32},
    "convmixer": {"patch_size": 4, "hidden_dim": 16, "num_blocks": 2, "kernel_size": 3},
    "timm:resnet10t": {},
}


def small(name: str, image_size: tuple[int, int] = (12, 16), **changes: object) -> nn.Module:
    """A model of a family with random weights, three classes and a temperature, in evaluation mode."""
    torch.manual_seed(0)
    model = mx.create(name, **SIZES[name], image_size=image_size, num_classes=len(NAMES))
    nn.init.normal_(model.head.weight)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that normalise nothing would hide whether they are used
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    info = dataclasses.replace(info_of(model), class_names=NAMES, precision="fp32", temperature=0.7)
    set_info(model, dataclasses.replace(info, **changes))
    return model.eval()


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A smooth picture, uint8 [height, width, channels]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, channels), dtype=np.uint8)
    size, smooth = (width, height), Image.Resampling.BICUBIC
    planes = [Image.fromarray(coarse[..., c]).resize(size, smooth) for c in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def folder_of_images(root: Path, count: int = 6) -> Path:
    """A folder of class folders with images of several sizes."""
    for label, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture = pixels(20 + 5 * number, 30 - 3 * number, seed=100 * label + number)
            Image.fromarray(picture).save(root / name / f"{number}.png")
    return root


def odd_images(root: Path) -> list[Path]:
    """Files of every kind: turned, grey, 16 bits, transparent, palette, CMYK, large, tiny, long, high."""
    root.mkdir()
    colour = Image.fromarray(pixels(40, 56))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    colour.save(root / "exif.jpg", exif=exif, quality=95)
    colour.convert("L").save(root / "grey.png")
    Image.fromarray(pixels(30, 44, 1, seed=6)[..., 0].astype(np.uint16) * 257).save(root / "grey16.png")
    Image.fromarray(pixels(33, 41, 4, seed=1)).save(root / "rgba.png")
    colour.quantize(32).save(root / "palette.gif")
    colour.convert("CMYK").save(root / "cmyk.jpg", quality=95)
    Image.fromarray(pixels(1500, 1100, seed=2)).save(root / "large.jpg", quality=90)
    Image.fromarray(pixels(2, 3, seed=3)).save(root / "tiny.png")
    Image.fromarray(pixels(12, 160, seed=4)).save(root / "long.png")
    Image.fromarray(pixels(150, 9, seed=5)).save(root / "high.webp", lossless=True)
    encoded = io.BytesIO()
    colour.save(encoded, "PNG")
    (root / "no_ending").write_bytes(encoded.getvalue())
    return sorted(root.iterdir())
