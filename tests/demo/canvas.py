"""Painting by code: soft gradients, rough outlines, light and grain, so that drawn scenes look a little like photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

OVERSAMPLING = 2
"""Shapes are drawn this much larger and reduced at the end: smooth edges."""
GRADIENT_FROM_PX = 24
"""Lower shapes get one colour instead of a gradient: nobody sees it, and fields of flowers are painted three times as fast."""


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` of the way from `a` to `b`."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


def clouds(rng: np.random.Generator, width: int, height: int, *, cells: int = 4, octaves: int = 5) -> np.ndarray:
    """Fractal noise, float32 [height, width] in 0…1; `cells` is the number of the largest blobs across the width."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        across = cells * 2**octave
        down = max(2, round(across * height / width))
        grid = Image.fromarray(rng.random((down + 1, across + 1)).astype(np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) * 0.5**octave
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


class Canvas:
    """A picture being painted.

    Positions and lengths are in units: the long side has 100 of them, the origin is the top left corner. `px_per_unit`
    decides the size of the finished image; it does not change what is painted.
    """

    def __init__(self, width: float = 100, height: float = 75, *, seed: int, px_per_unit: float = 10.24) -> None:
        self.width, self.height = width, height
        self.rng = np.random.default_rng(seed)
        self.size_px = (round(width * px_per_unit), round(height * px_per_unit))
        self.scale = px_per_unit * OVERSAMPLING
        self.image = Image.new("RGB", (self.size_px[0] * OVERSAMPLING, self.size_px[1] * OVERSAMPLING))
        self.draw = ImageDraw.Draw(self.image)

    # Shapes

    def _px(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.scale, y * self.scale) for x, y in points]

    def polygon(self, points: Sequence[Point], fill: Colour, to: Colour | None = None) -> None:
        """A filled outline; with `to`, the colour runs from `fill` at its top to `to` at its bottom."""
        outline = self._px(points)
        xs, ys = [x for x, _ in outline], [y for _, y in outline]
        if to is None or max(ys) - min(ys) < GRADIENT_FROM_PX:
            self.draw.polygon(outline, fill=fill if to is None else mix(fill, to, 0.5))
            return
        left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
        right = min(self.image.width, math.ceil(max(xs)) + 1)
        bottom = min(self.image.height, math.ceil(max(ys)) + 1)
        if right <= left or bottom <= top:
            return
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline], fill=255)
        self.image.paste(gradient(mask.size, fill, to), (left, top), mask)

    def box(self, x: float, y: float, width: float, height: float, fill: Colour, to: Colour | None = None) -> None:
        """An upright rectangle, its corner at (x, y)."""
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], fill, to)

    def rounded(self, x: float, y: float, width: float, height: float, radius: float, fill: Colour) -> None:
        s = self.scale
        self.draw.rounded_rectangle([x * s, y * s, (x + width) * s, (y + height) * s], radius * s, fill=fill)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Colour, to: Colour | None = None, *, turn: float = 0
    ) -> None:
        """An ellipse around (x, y), turned clockwise by `turn` degrees; `to` as in `polygon`."""
        angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        points = [
            (x + rx * math.cos(a) * c - ry * math.sin(a) * s, y + rx * math.cos(a) * s + ry * math.sin(a) * c)
            for a in angles
        ]
        self.polygon(points, fill, to)

    def ball(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """A round thing lit from the upper left."""
        steps = 14
        for step in range(steps):
            share = step / steps
            shrink = radius * (1 - 0.92 * share)
            shade = mix(mix(fill, (0, 0, 0), 0.35), mix(fill, (255, 255, 255), 0.45), share**0.8)
            self.ellipse(x - radius * 0.3 * share, y - radius * 0.34 * share, shrink, shrink, shade)

    def line(self, points: Sequence[Point], fill: Colour, width: float = 0.5) -> None:
        px = max(1, round(width * self.scale))
        self.draw.line(self._px(points), fill=fill, width=px, joint="curve")

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Colour, width: float
    ) -> None:
        """Part of an ellipse's outline, angles in degrees, clockwise from three o'clock."""
        angles = np.linspace(math.radians(start), math.radians(end), 40)
        self.line([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles], fill, width)

    def text(
        self, x: float, y: float, words: str, size: float, fill: Colour = (255, 255, 255), *, anchor: str = "mm"
    ) -> None:
        font = ImageFont.load_default(max(6, round(size * self.scale)))
        self.draw.text((x * self.scale, y * self.scale), words, fill=fill, font=font, anchor=anchor)

    # Nature

    def sky(self, top: Colour, bottom: Colour, *, until: float | None = None) -> None:
        """A vertical gradient over the whole width, down to `until`."""
        self.box(0, 0, self.width, self.height if until is None else until, top, bottom)

    def clouds(self, *, until: float, colour: Colour = (255, 255, 255), cover: float = 0.5, cells: int = 4) -> None:
        """Soft clouds above `until`, thinning out towards it; `cover` 0…1 is how much of the sky they take."""
        width, height = self.image.width // 4, max(2, round(until * self.scale / 4))
        noise = clouds(self.rng, width, height, cells=cells)
        veil = np.clip((noise - (1 - cover)) / 0.35, 0, 1) * np.linspace(1, 0.25, height)[:, None]
        self._veil(veil, 0, 0, (self.image.width, round(until * self.scale)), colour)

    def texture(self, y0: float, y1: float, *, strength: float, cells: int = 40, flat: float = 1.0) -> None:
        """Uneven light on the band between `y0` and `y1`; `flat` above 1 stretches it sideways (water, fields)."""
        top, bottom = round(y0 * self.scale), min(self.image.height, round(y1 * self.scale))
        width, height = self.image.width // 3, max(4, (bottom - top) // 3)
        noise = clouds(self.rng, max(8, round(width / flat)), height, cells=max(2, round(cells / flat)), octaves=4)
        light = Image.fromarray(((noise - noise.mean()) * 255 * strength + 128).clip(0, 255).astype(np.uint8))
        light = light.resize((self.image.width, bottom - top), Image.Resampling.BICUBIC)
        band = self.image.crop((0, top, self.image.width, bottom))
        grey = Image.merge("RGB", [light] * 3)
        self.image.paste(ImageChops.add(band, grey, scale=1.0, offset=-128), (0, top))

    def ridge(self, y: float, rough: float, *, cells: int = 5) -> list[Point]:
        """An uneven line across the picture around `y`, `rough` units up and down, left to right."""
        steps = 160
        heights = clouds(self.rng, steps, 8, cells=cells, octaves=6)[4]
        return [(self.width * i / (steps - 1), y - (float(h) - 0.5) * 2 * rough) for i, h in enumerate(heights)]

    def land(self, y: float, rough: float, fill: Colour, to: Colour | None = None, *, cells: int = 5) -> list[Point]:
        """Ground below a ridge; returns the ridge."""
        line = self.ridge(y, rough, cells=cells)
        self.polygon([*line, (self.width, self.height), (0, self.height)], fill, to)
        return line

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float = 0.8) -> None:
        """Light around a point, strongest in the middle."""
        side = max(4, round(radius * self.scale / 4)) * 2
        axis = np.linspace(-1, 1, side, dtype=np.float32)
        fall = np.clip(1 - np.hypot(axis[:, None], axis[None, :]), 0, 1) ** 2 * strength
        span = round(2 * radius * self.scale)
        self._veil(fall, round((x - radius) * self.scale), round((y - radius) * self.scale), (span, span), colour)

    def shadow(self, x: float, y: float, rx: float, ry: float, strength: float = 0.45) -> None:
        """A soft dark patch on the ground."""
        axis_x, axis_y = np.linspace(-1, 1, 96, dtype=np.float32), np.linspace(-1, 1, 48, dtype=np.float32)
        fall = np.clip(1 - np.hypot(axis_y[:, None], axis_x[None, :]), 0, 1) * strength
        size = (round(2 * rx * self.scale), round(2 * ry * self.scale))
        self._veil(fall, round((x - rx) * self.scale), round((y - ry) * self.scale), size, (0, 0, 0))

    def _veil(self, opacity: np.ndarray, left: int, top: int, size: tuple[int, int], colour: Colour) -> None:
        """Lay `colour` over a rectangle; `opacity` float [h, w] in 0…1 is stretched over it."""
        mask = Image.fromarray((np.clip(opacity, 0, 1) * 255).astype(np.uint8))
        mask = mask.resize((max(1, size[0]), max(1, size[1])), Image.Resampling.BICUBIC)
        self.image.paste(Image.new("RGB", mask.size, colour), (left, top), mask)

    # Living things and others that occur more than once

    def pine(self, x: float, y: float, height: float, fill: Colour = (28, 62, 44)) -> None:
        """A fir standing at (x, y)."""
        self.box(x - height * 0.025, y - height * 0.12, height * 0.05, height * 0.12, (70, 50, 36))
        for step in range(5):
            bottom = y - height * (0.1 + 0.15 * step)
            half = height * (0.24 - 0.04 * step)
            lit = mix(fill, (255, 255, 255), 0.1)
            self.polygon([(x - half, bottom), (x, bottom - height * 0.3), (x + half, bottom)], lit, fill)

    def tree(self, x: float, y: float, height: float, leaves: Colour, trunk: Colour = (84, 60, 42)) -> None:
        """A tree with a round crown standing at (x, y)."""
        w = height * 0.05
        self.polygon([(x - w, y), (x - w * 0.6, y - height * 0.6), (x + w * 0.6, y - height * 0.6), (x + w, y)], trunk)
        for _ in range(60):
            angle, far = self.rng.uniform(0, 2 * math.pi), math.sqrt(self.rng.uniform(0, 1)) * height * 0.3
            dx, dy = far * math.cos(angle), far * math.sin(angle) * 0.85
            light = 0.5 - dy / (height * 0.6) - dx / (height * 0.9)
            shade = mix(mix(leaves, (0, 0, 0), 0.4), mix(leaves, (255, 255, 210), 0.3), min(1.0, max(0.0, light)))
            r = height * self.rng.uniform(0.05, 0.1)
            self.ellipse(x + dx, y - height * 0.68 + dy, r, r * 0.85, shade)

    def water(self, y0: float, y1: float, far: Colour, near: Colour, *, sparkle: Colour | None = None) -> None:
        """A sheet of water with small waves; `sparkle` is the colour of the light on them."""
        self.box(0, y0, self.width, y1 - y0, far, near)
        self.texture(y0, y1, strength=0.16, cells=90, flat=6)
        for _ in range(260 if sparkle else 0):
            depth = self.rng.uniform(0, 1) ** 1.5
            y, x = y0 + (y1 - y0) * depth, self.rng.uniform(0, self.width)
            assert sparkle is not None
            self.line([(x, y), (x + 0.5 + 3 * depth, y)], mix(near, sparkle, 0.5), 0.1 + 0.15 * depth)

    def car(self, x: float, y: float, length: float, paint: Colour) -> None:
        """A car seen from its right side, its wheels' foot at (x … x + length, y)."""
        u = length / 40
        dark, light = mix(paint, (0, 0, 0), 0.4), mix(paint, (255, 255, 255), 0.25)

        def at(points: Sequence[Point]) -> list[Point]:
            return [(x + px * u, y - py * u) for px, py in points]

        self.shadow(x + 20 * u, y, 23 * u, 2.2 * u, 0.7)
        self.polygon(
            at(
                [
                    (0.5, 3),
                    (0.3, 7),
                    (2, 8.6),
                    (9, 9.2),
                    (14, 14),
                    (25, 14),
                    (31.5, 9.2),
                    (38.5, 8),
                    (39.8, 5.5),
                    (39.5, 3),
                ]
            ),
            light,
            dark,
        )
        glass = (176, 205, 222)
        self.polygon(at([(10.8, 9.3), (14.8, 13.1), (19, 13.1), (19, 9.3)]), glass, (90, 115, 135))
        self.polygon(at([(20, 9.3), (20, 13.1), (24.6, 13.1), (29.4, 9.3)]), glass, (90, 115, 135))
        self.line(at([(19.5, 3.5), (19.5, 9.2)]), dark, 0.25 * u)
        self.line(at([(21, 8), (23, 8)]), (230, 230, 230), 0.35 * u)
        self.ellipse(x + 38.4 * u, y - 6.9 * u, 1.1 * u, 0.7 * u, (255, 246, 200))
        self.box(x + 0.4 * u, y - 7.6 * u, 1.3 * u, 1.2 * u, (150, 20, 20))
        for wheel in (8.5, 31):
            self.ellipse(x + wheel * u, y - 3 * u, 3.4 * u, 3.4 * u, (24, 24, 26))
            self.ellipse(x + wheel * u, y - 3 * u, 1.9 * u, 1.9 * u, (196, 198, 202), (120, 122, 128))
            self.ellipse(x + wheel * u, y - 3 * u, 0.6 * u, 0.6 * u, (60, 60, 64))

    def finish(self, *, grain: float = 4.0, vignette: float = 0.18, blur_px: float = 0.0) -> Image.Image:
        """The finished image, RGB: reduced, slightly darker towards the corners, with a camera's grain (in 8-bit steps)."""
        image = self.image.reduce(OVERSAMPLING)
        if blur_px:
            image = image.filter(ImageFilter.GaussianBlur(blur_px))
        if not grain and not vignette:
            return image
        width, height = image.size
        pixels = np.asarray(image, np.float32)
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        light = 1 - vignette * (x * x + y * y) / 2
        noise = self.rng.standard_normal((height, width), np.float32) * grain
        pixels = pixels * light[..., None] + noise[..., None]
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    """RGB image whose colour runs from `top` to `bottom`."""
    share = np.linspace(0, 1, max(size[1], 1), dtype=np.float32)[:, None]
    column = np.array(top, np.float32) * (1 - share) + np.array(bottom, np.float32) * share
    return Image.fromarray(column.astype(np.uint8)[:, None, :]).resize(size, Image.Resampling.NEAREST)
