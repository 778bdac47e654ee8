"""The demo's short films: a few painted scenes each, with hard cuts between them, encoded by PyAV."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.demo import pictures
from tests.demo.canvas import Canvas, Colour, mix

SIZE_PX = (640, 360)
FPS = 12
UNIT_PX = SIZE_PX[0] / 100
"""Scenes are painted in the units of `Canvas`: 100 across, 56.25 down."""

Frame = Callable[[float], Image.Image]
"""What a scene shows, given the share of it that has passed, 0…1."""


@dataclass(frozen=True, slots=True)
class Scene:
    """`prepare` paints what does not move and returns the function that paints a frame. `caption` becomes the subtitle."""

    prepare: Callable[[], Frame]
    duration_s: float
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Film:
    path: str
    scenes: Sequence[Scene]
    subtitles: bool = False


def _backdrop(seed: int) -> Canvas:
    return Canvas(100, 56.25, seed=seed, px_per_unit=UNIT_PX)


def _moving(background: Image.Image, paint: Callable[[Canvas, float], None]) -> Frame:
    """A frame function that paints over a fresh copy of `background`."""
    large = background.resize((background.width * 2, background.height * 2), Image.Resampling.BICUBIC)

    def frame(t: float) -> Image.Image:
        canvas = _backdrop(0)
        canvas.image = large.copy()
        canvas.draw = ImageDraw.Draw(canvas.image)
        paint(canvas, t)
        return canvas.image.reduce(2)

    return frame


def bouncing_ball() -> Frame:
    c = _backdrop(101)
    c.sky((236, 238, 244), (214, 220, 232))
    c.box(0, 46, 100, 11, (150, 120, 92), (120, 92, 66))

    def paint(c: Canvas, t: float) -> None:
        x, phase = 10 + 80 * t, (t * 5) % 1
        height = 26 * 4 * phase * (1 - phase) * (1 - 0.5 * t)
        c.shadow(x, 47, 7 - height * 0.1, 1.4, 0.6)
        c.ball(x, 42.4 - height, 4, (214, 40, 44))

    return _moving(c.finish(grain=0), paint)


def pendulum() -> Frame:
    c = _backdrop(102)
    c.sky((226, 232, 226), (200, 212, 204))
    c.box(24, 6, 52, 2.4, (90, 70, 54))
    c.box(26, 6, 2, 46, (90, 70, 54))
    c.box(72, 6, 2, 46, (90, 70, 54))
    c.box(18, 51, 64, 2.4, (90, 70, 54))

    def paint(c: Canvas, t: float) -> None:
        angle = 0.75 * math.cos(t * 2 * math.pi * 2.5)
        x, y = 50 + 34 * math.sin(angle), 8 + 34 * math.cos(angle)
        c.line([(50, 8), (x, y)], (50, 50, 56), 0.35)
        c.ball(x, y, 4.2, (206, 164, 60))

    return _moving(c.finish(grain=0), paint)


def rocket() -> Frame:
    c = _backdrop(103)
    c.sky((14, 20, 56), (86, 110, 170))
    for _ in range(120):
        c.ellipse(c.rng.uniform(0, 100), c.rng.uniform(0, 40), 0.15, 0.15, (250, 250, 255))
    c.land(50, 1, (70, 84, 60), (50, 60, 44))
    c.box(60, 26, 3, 25, (150, 60, 50))

    def paint(c: Canvas, t: float) -> None:
        y = 36 - 46 * t**1.8
        flame = 7 + 2.5 * math.sin(t * 90)
        c.glow(50, y + 16, 16, (255, 190, 90), 0.8)
        c.polygon([(47.4, y + 13), (50, y + 13 + flame), (52.6, y + 13)], (255, 150, 40))
        c.polygon([(48.8, y + 13), (50, y + 13 + flame * 0.6), (51.2, y + 13)], (255, 244, 190))
        c.polygon([(46.6, y + 4), (42.6, y + 13), (46.6, y + 13)], (200, 50, 46))
        c.polygon([(53.4, y + 4), (57.4, y + 13), (53.4, y + 13)], (200, 50, 46))
        c.box(46.6, y, 6.8, 13.4, (240, 240, 244), (190, 194, 204))
        c.polygon([(46.6, y), (50, y - 7), (53.4, y)], (200, 50, 46))
        c.ellipse(50, y + 4, 1.7, 1.7, (90, 150, 210))

    return _moving(c.finish(grain=0), paint)


def sunset() -> Frame:
    c = _backdrop(104)
    c.sky((70, 96, 160), (252, 186, 120), until=36)
    c.clouds(until=30, colour=(250, 190, 170), cover=0.4)
    background = c.finish(grain=0)

    def paint(c: Canvas, t: float) -> None:
        y = 12 + 26 * t
        c.glow(50, y, 34, (255, 210, 120), 0.9)
        c.ellipse(50, y, 5.4, 5.4, (255, 244, 190), (255, 176, 80))
        sea: Colour = mix((220, 140, 96), (90, 56, 92), t)
        c.box(0, 36, 100, 21, sea, mix(sea, (10, 10, 40), 0.6))
        rng = np.random.default_rng(7)
        for i in range(34):
            wave_y = 36.8 + i * 0.57
            half = 1.6 + i * 0.16 + rng.uniform(-1, 1)
            shift = 1.2 * math.sin(t * 22 + i)
            c.line([(50 - half + shift, wave_y), (50 + half + shift, wave_y)], mix(sea, (255, 224, 150), 0.7), 0.25)
        c.land(54, 2, (24, 18, 30), cells=4)

    return _moving(background, paint)


def sailing() -> Frame:
    c = _backdrop(105)
    c.sky((90, 160, 216), (216, 234, 242), until=30)
    c.clouds(until=27, cover=0.5)
    c.water(30, 56.25, (30, 110, 150), (20, 70, 110), sparkle=(255, 255, 255))

    def paint(c: Canvas, t: float) -> None:
        x, y = 12 + 66 * t, 36 + 0.8 * math.sin(t * 24)
        lean = 1.2 * math.sin(t * 18)
        c.polygon([(x - 9, y), (x + 10, y), (x + 6, y + 4), (x - 6, y + 4)], (246, 246, 246), (180, 60, 50))
        c.line([(x, y), (x + lean, y - 24)], (120, 90, 60), 0.5)
        c.polygon(
            [(x + 0.7, y - 1.4), (x + 0.7 + lean, y - 23), (x + 10 + lean, y - 1.4)], (252, 252, 250), (220, 222, 226)
        )
        c.polygon([(x - 0.7, y - 1.4), (x - 0.7 + lean, y - 20), (x - 8 + lean, y - 1.4)], (230, 80, 60), (200, 50, 40))
        for k in range(5):
            c.line([(x - 10 - 3 * k, y + 4 + k * 0.5), (x - 7 - 3 * k, y + 4 + k * 0.5)], (230, 240, 245), 0.3)

    return _moving(c.finish(grain=0), paint)


def campfire() -> Frame:
    c = _backdrop(106)
    c.sky((8, 10, 28), (30, 30, 56))
    for _ in range(140):
        c.ellipse(c.rng.uniform(0, 100), c.rng.uniform(0, 34), 0.14, 0.14, (240, 240, 250))
    for x in (6, 16, 26, 76, 86, 95):
        c.pine(x, 46, c.rng.uniform(22, 34), (12, 20, 24))
    c.land(44, 1, (34, 30, 28), (20, 18, 18))
    c.polygon([(64, 46), (76, 30), (88, 46)], (196, 110, 50), (150, 76, 36))
    c.polygon([(74, 46), (76, 34), (79, 46)], (60, 36, 26))

    def paint(c: Canvas, t: float) -> None:
        rng = np.random.default_rng(round(t * 1000))
        c.glow(44, 42, 26 + rng.uniform(-2, 2), (255, 150, 60), 0.75)
        for width, tone in ((5, (230, 80, 20)), (3.4, (252, 150, 40)), (1.8, (255, 236, 150))):
            for k in range(3):
                x = 44 + (k - 1) * width * 0.7
                c.polygon(
                    [
                        (x - width * 0.6, 48),
                        (x + rng.uniform(-1, 1), 48 - width * rng.uniform(2.4, 3.4)),
                        (x + width * 0.6, 48),
                    ],
                    tone,
                )
        c.line([(37, 49.4), (51, 46.6)], (74, 46, 28), 1.8)
        c.line([(37, 46.6), (51, 49.4)], (92, 58, 34), 1.8)
        for _ in range(8):
            c.ellipse(44 + rng.uniform(-8, 8), rng.uniform(12, 40), 0.25, 0.25, (255, 190, 90))

    return _moving(c.finish(grain=0), paint)


def _drive(
    seed: int, sky: tuple[Colour, Colour], ground: Colour, road: Colour, paint_car: Colour, *, night: bool, snow: bool
) -> Frame:
    """A car from the side; the landscape passes behind it."""
    wide = Canvas(200, 56.25, seed=seed, px_per_unit=UNIT_PX)
    wide.sky(*sky, until=34)
    if not night:
        wide.clouds(until=26, cover=0.4, cells=8)
    wide.land(30, 4, mix(ground, sky[1], 0.4), ground, cells=9)
    for x in range(4, 200, 11):
        if night:
            height = wide.rng.uniform(10, 28)
            wide.box(x, 38 - height, 9, height, (20, 22, 42))
            for _ in range(22):
                wide.box(
                    x + wide.rng.uniform(0.6, 7.6),
                    38 - height + wide.rng.uniform(0.6, height - 1),
                    0.8,
                    1,
                    (255, 210, 120),
                )
        elif snow:
            wide.pine(x + wide.rng.uniform(-2, 2), 39, wide.rng.uniform(12, 20), (150, 176, 176))
        else:
            wide.tree(x + wide.rng.uniform(-2, 2), 39, wide.rng.uniform(10, 16), (70, 130, 60))
    wide.box(0, 38, 200, 4, ground)
    wide.box(0, 42, 200, 15, road, mix(road, (0, 0, 0), 0.3))
    strip = wide.finish(grain=0, vignette=0)
    strip = strip.resize((strip.width * 2, strip.height * 2), Image.Resampling.BICUBIC)

    def frame(t: float) -> Image.Image:
        c = _backdrop(0)
        left = round(t * (strip.width - c.image.width))
        c.image = strip.crop((left, 0, left + c.image.width, strip.height))
        c.draw = ImageDraw.Draw(c.image)
        for k in range(8):
            x = (k * 16 - t * 260) % 128 - 16
            c.box(x, 52.6, 8, 0.9, (236, 236, 226))
        c.car(32, 50 + 0.2 * math.sin(t * 60), 36, paint_car)
        if night:
            c.glow(76, 46, 14, (255, 244, 200), 0.75)
        if snow:
            rng = np.random.default_rng(3)
            for _ in range(70):
                x, y = (rng.uniform(0, 100) - t * 60) % 100, (rng.uniform(0, 56) + t * 70) % 56
                c.ellipse(x, y, 0.35, 0.35, (250, 250, 255))
        return c.image.reduce(2)

    return frame


def red_car_drive() -> Frame:
    return _drive(
        107, ((110, 176, 226), (226, 238, 242)), (110, 160, 84), (100, 100, 106), (206, 24, 28), night=False, snow=False
    )


def night_drive() -> Frame:
    return _drive(108, ((8, 10, 30), (60, 46, 86)), (30, 32, 44), (46, 46, 54), (240, 200, 40), night=True, snow=False)


def snow_drive() -> Frame:
    return _drive(
        109, ((170, 190, 214), (226, 234, 242)), (236, 240, 246), (170, 176, 186), (40, 90, 180), night=False, snow=True
    )


_SHELL = (
    "$ git pull", "Already up to date.", "$ pytest", "............................", "128 passed in 9.41s",
    "$ git commit -m 'fix page numbers'", "[main 3f9c2d1] fix page numbers", "$ git push",
)  # fmt: skip


def typing() -> Frame:
    c = _backdrop(110)
    c.sky((16, 18, 24), (16, 18, 24))
    c.box(0, 0, 100, 4.6, (52, 54, 62))
    for i, tone in enumerate(((240, 90, 80), (244, 190, 70), (90, 200, 90))):
        c.ellipse(3 + i * 2.8, 2.3, 0.8, 0.8, tone)
    c.text(50, 2.3, "terminal", 1.9, (200, 204, 214))
    whole = "\n".join(_SHELL)

    def paint(c: Canvas, t: float) -> None:
        lines = whole[: round(len(whole) * min(1.0, t * 1.15))].split("\n")
        for i, line in enumerate(lines):
            c.text(4, 9 + i * 5.6, line, 2.9, (120, 240, 140) if line.startswith("$") else (210, 214, 222), anchor="lm")
        if t > 0.9 and round(t * 24) % 2:
            c.box(4, 9 + 5.6 * len(lines) - 1.3, 1.6, 2.6, (120, 240, 140))

    return _moving(c.finish(grain=0, vignette=0), paint)


def growing_chart() -> Frame:
    c = _backdrop(111)
    c.sky((250, 250, 252), (250, 250, 252))
    c.text(50, 5, "Visitors per month", 3.4, (40, 44, 52))
    for k in range(6):
        c.line([(12, 50 - 7.4 * k), (94, 50 - 7.4 * k)], (224, 226, 232), 0.2)
        c.text(10, 50 - 7.4 * k, f"{k * 20}k", 1.9, (110, 114, 124), anchor="rm")
    heights = (9, 12, 11, 16, 19, 18, 24, 27, 31, 30, 35, 37)

    def paint(c: Canvas, t: float) -> None:
        for i, height in enumerate(heights):
            grown = height * min(1.0, max(0.0, t * 14 - i))
            c.box(14 + i * 6.7, 50 - grown, 4.6, grown, (60, 130, 200))
            c.text(16.3 + i * 6.7, 52.4, "JFMAMJJASOND"[i], 2, (110, 114, 124))

    return _moving(c.finish(grain=0, vignette=0), paint)


def _pan(
    paint_picture: Callable[[], Image.Image], start: tuple[float, float, float], end: tuple[float, float, float]
) -> Frame:
    """A camera that moves over a picture: (left, top, width) as shares of the picture's width."""
    picture = paint_picture()

    def frame(t: float) -> Image.Image:
        eased = t * t * (3 - 2 * t)
        left, top, width = ((a + (b - a) * eased) * picture.width for a, b in zip(start, end, strict=True))
        box = (left, top, left + width, top + width * SIZE_PX[1] / SIZE_PX[0])
        return picture.resize(SIZE_PX, Image.Resampling.BILINEAR, box=box)

    return frame


def balloon_flight() -> Frame:
    return _pan(pictures.balloons, (0.0, 0.62, 1.0), (0.0, 0.0, 0.9))


def fireworks_show() -> Frame:
    c = _backdrop(112)
    c.sky((6, 8, 26), (30, 26, 58))
    c.land(51, 1.5, (4, 4, 10), cells=7)
    tones: tuple[Colour, ...] = ((255, 90, 80), (120, 210, 255), (255, 214, 100), (170, 255, 150), (240, 130, 255))

    def paint(c: Canvas, t: float) -> None:
        for k, (x, y) in enumerate(((26, 18), (64, 14), (84, 26), (46, 26), (14, 30))):
            age = (t * 2.2 - k * 0.22) % 1.3
            if t * 2.2 < k * 0.22 or age > 1:
                continue
            radius, tone = 15 * age**0.5, mix(tones[k], (10, 10, 30), age**2)
            c.glow(x, y, radius * 1.4 + 2, tone, 0.5 * (1 - age))
            for ray in range(26):
                a = 2 * math.pi * ray / 26
                inner = radius * (0.3 + 0.5 * age)
                c.line(
                    [
                        (x + inner * math.cos(a), y + inner * math.sin(a) + 5 * age * age),
                        (x + radius * math.cos(a), y + radius * math.sin(a) + 6 * age * age),
                    ],
                    tone,
                    0.25,
                )

    return _moving(c.finish(grain=0), paint)


def title_card() -> Frame:
    image = Image.new("RGB", SIZE_PX, (24, 40, 64))
    draw = ImageDraw.Draw(image)
    draw.text(
        (320, 150), "Physics in three minutes", fill=(255, 255, 255), font=ImageFont.load_default(44), anchor="mm"
    )
    draw.text(
        (320, 210), "falling, swinging, flying", fill=(150, 190, 230), font=ImageFont.load_default(24), anchor="mm"
    )
    return lambda t: image


FILMS = (
    Film(
        "videos/lesson.mp4",
        (
            Scene(title_card, 3, "Physics in three minutes: falling, swinging, flying."),
            Scene(bouncing_ball, 5, "A rubber ball loses energy at every bounce, so each jump is lower than the last."),
            Scene(pendulum, 5, "A pendulum's period depends on its length, not on the weight that hangs from it."),
            Scene(rocket, 4, "A rocket pushes gas down, and the gas pushes the rocket up: action and reaction."),
        ),
        subtitles=True,
    ),
    Film("videos/VID_0714.mp4", (Scene(sailing, 5), Scene(sunset, 6), Scene(campfire, 4))),
    Film("videos/VID_0302.mp4", (Scene(red_car_drive, 5), Scene(night_drive, 4), Scene(snow_drive, 4))),
    Film("videos/screen.mp4", (Scene(typing, 6), Scene(growing_chart, 5))),
    Film("videos/VID_1231.mp4", (Scene(balloon_flight, 4), Scene(fireworks_show, 5))),
)


def write_film(film: Film, path: Path) -> None:
    """Encode `film` (H.264, or MPEG-4 where PyAV has no x264); the same bytes every time."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = *SIZE_PX, "yuv420p"
        stream.gop_size = FPS * 2
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "24", "preset": "veryfast"} if codec == "libx264" else {"qscale": "4"}
        for scene in film.scenes:
            paint, count = scene.prepare(), round(scene.duration_s * FPS)
            for i in range(count):
                container.mux(stream.encode(av.VideoFrame.from_image(paint(i / (count - 1)))))
        container.mux(stream.encode(None))


def subtitles(film: Film) -> str:
    """The film's captions as SubRip, one per scene."""
    blocks, start_s = [], 0.0
    for number, scene in enumerate(film.scenes, start=1):
        end_s = start_s + scene.duration_s
        blocks.append(f"{number}\n{_clock(start_s)} --> {_clock(end_s - 0.1)}\n{scene.caption}\n")
        start_s = end_s
    return "\n".join(blocks)


def _clock(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"
