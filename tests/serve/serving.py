"""A tiny model behind a server in a thread of the tests' own process, and images of many kinds."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mixonomy as mx
from mixonomy.models import info_of, set_info
from mixonomy.serve.engine import Engine
from mixonomy.serve.metrics import Metrics
from mixonomy.serve.server import listen, make_server, url_of
from mixonomy.serve.settings import Settings

NAMES = ("ant", "bee", "<b>cat</b>", "dog & co", "猫")
SETTINGS = Settings(port=0, max_queue=16, max_images=4, max_body_bytes=2**20, max_memory_bytes=2**22, max_pixels=10**6)


def tiny_model() -> nn.Module:
    """A Mixer of two blocks for 32 x 24 pixels with random weights, the head too, which computes in float32."""
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 16}
    model = mx.create("mixer", image_size=(32, 24), num_classes=len(NAMES), **sizes)
    nn.init.normal_(model.head.weight)
    set_info(model, replace(info_of(model), class_names=NAMES, precision="fp32"))
    return model.eval()


def exported_model(folder: Path) -> nn.Module:
    """The tiny model as an ONNX file, written to a folder and read back."""
    pytest.importorskip("onnxscript")
    from mixonomy.export import export_model

    for number in range(4):
        path = folder / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image=Image.fromarray(pixels(seed=number))))
    return mx.load(export_model(tiny_model(), "onnx", folder / "tiny.onnx", source=str(folder / "images")).path)


@contextmanager
def running(settings: Settings = SETTINGS, *, model: nn.Module | None = None) -> Iterator[tuple[httpx.Client, Engine]]:
    """A client of a server that is ready, and its engine; both end with the block."""
    with unready(settings, model=tiny_model() if model is None else model) as (client, engine):
        engine.loaded.result(60)
        yield client, engine


@contextmanager
def unready(settings: Settings = SETTINGS, **options) -> Iterator[tuple[httpx.Client, Engine]]:
    """The same, without waiting for the model."""
    metrics = Metrics()
    engine = Engine("runs/tiny", settings, metrics, device="cpu", **options)
    listening = listen(settings)
    server = make_server(engine, settings, metrics)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with httpx.Client(base_url=url_of(listening), timeout=60, trust_env=False) as client:
            yield client, engine
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()


def until(condition, seconds: float = 20.0) -> None:
    """Waits for something that other threads do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def pixels(height: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    """Smooth noise uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(form: str = "PNG", image: Image.Image | None = None, **options) -> bytes:
    """An image file."""
    file = io.BytesIO()
    (image or Image.fromarray(pixels())).save(file, form, **options)
    return file.getvalue()


def image_files() -> dict[str, bytes]:
    """Files of many kinds that the server must read as `mixonomy.predict` does."""
    plain = Image.fromarray(pixels())
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = plain.convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 50).astype(np.uint8), (40, 1))))
    frames = [Image.fromarray(pixels(seed=n)).quantize() for n in range(3)]
    return {
        "jpeg": encoded("JPEG"),
        "progressive": encoded("JPEG", progressive=True),
        "turned": encoded("JPEG", exif=turned),
        "grey": encoded("JPEG", plain.convert("L")),
        "cmyk": encoded("JPEG", plain.convert("CMYK")),
        "png": encoded("PNG"),
        "rgba": encoded("PNG", clear),
        "palette": encoded("PNG", plain.quantize(16)),
        "16 bits": encoded("PNG", Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257)),
        "webp": encoded("WEBP", lossless=True),
        "animated": encoded("GIF", frames[0], save_all=True, append_images=frames[1:]),
        "animated webp": encoded("WEBP", plain, save_all=True, append_images=[clear], lossless=True),
        "bmp": encoded("BMP"),
        "tiff": encoded("TIFF"),
        "large": encoded("JPEG", Image.fromarray(pixels(700, 900))),
        "tiny": encoded("PNG", Image.fromarray(pixels(1, 1))),
        "wide": encoded("PNG", Image.fromarray(pixels(20, 200))),
    }
