"""Runs a file of `mixonomy export --to onnx` (--batch dynamic or 1) without mixonomy: onnx_predict.py FILE PHOTO..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["mixonomy"])
prepared, names = about["preprocessing"], about["class_names"]
(height, width), crop, resize = prepared["image_size"], prepared["crop"], prepared["resize"]
mode, grey = ("RGB", (127, 127, 127)) if prepared["channels"] == 3 else ("L", 127)
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    wide, high = (width, height) if crop in ("squash", "pad") else (width * resize, height * resize)
    if crop in ("resmall", "pad"):  # they keep the image's shape
        scale = (min if crop == "pad" else max)(wide / image.width, high / image.height)
        wide, high = image.width * scale, image.height * scale
    size = (max(round(wide), 1 if crop == "pad" else width), max(round(high), 1 if crop == "pad" else height))
    corner = [-round(more / 2) if more > 0 else -more // 2 for more in (size[0] - width, size[1] - height)]
    canvas = Image.new(mode, (width, height), grey)
    canvas.paste(image.convert(mode).resize(size, Image.Resampling.BILINEAR), (corner[0], corner[1]))
    pixels = np.atleast_3d(np.asarray(canvas)).transpose(2, 0, 1)[None]
    logits, probs = session.run(["logits", "probs"], {"images": pixels})
    best = int(probs[0].argmax())
    print(path, names[best] if names else best, f"{probs[0, best]:.6f}")
