"""The picture with which an exported model is checked: drawn, so that an archive shows nobody's images."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 640, 480
SHAPES = 12


def drawn(seed: int) -> bytes:
    """A PNG file of coloured shapes over a gradient, with some noise; always the same for a seed."""
    random = np.random.default_rng(seed)
    corners = Image.fromarray(random.integers(0, 256, (2, 2, 3), np.uint8))
    image = corners.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(SHAPES):
        across, down = random.integers(30, WIDTH // 2), random.integers(30, HEIGHT // 2)
        left, top = random.integers(-across // 2, WIDTH - across // 2), random.integers(-down // 2, HEIGHT - down // 2)
        box = [int(left), int(top), int(left + across), int(top + down)]
        fill, line = (tuple(random.integers(0, 256, 3).tolist()) for _ in range(2))
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)(box, fill, line, width=4)
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(1)), np.int16)
    noisy = soft + random.integers(-6, 7, soft.shape, np.int16)
    file = BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
