"""The demo's photo-like pictures and drawings: one painter per scene, and the table that says which file it fills."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image

from tests.demo.canvas import Canvas, Colour, mix

Painter = Callable[[], Image.Image]


def beach() -> Image.Image:
    c = Canvas(seed=1)
    c.sky((66, 140, 205), (214, 234, 244), until=33)
    c.clouds(until=30, cover=0.45)
    c.glow(76, 12, 22, (255, 250, 220), 0.9)
    c.ellipse(76, 12, 3.4, 3.4, (255, 253, 232))
    c.water(33, 56, (28, 118, 160), (72, 186, 196), sparkle=(255, 255, 255))
    foam = c.ridge(54.5, 1.4, cells=4)
    c.polygon([*foam, (100, 75), (0, 75)], (244, 248, 246))
    wet = [(x, y + 1.4) for x, y in foam]
    c.polygon([*wet, (100, 75), (0, 75)], (196, 168, 124), (222, 194, 148))
    c.polygon([*[(x, y + 4) for x, y in foam], (100, 75), (0, 75)], (232, 206, 158), (240, 216, 170))
    c.texture(58, 75, strength=0.2, cells=140)
    c.shadow(24, 69, 14, 2.5)
    c.line([(24, 46), (22, 69)], (240, 240, 236), 0.7)
    for i, colour in enumerate([(222, 60, 52), (250, 246, 238)] * 4):
        left, right = 10 + 3.4 * i, 10 + 3.4 * (i + 1)

        def dome(x: float) -> float:
            return 52 - 11 * math.sqrt(max(0.0, 1 - ((x - 23.6) / 13.6) ** 2))

        rim = [(left + (right - left) * t / 8, dome(left + (right - left) * t / 8)) for t in range(9)]
        c.polygon([(left, 52), *rim, (right, 52)], colour, mix(colour, (0, 0, 0), 0.15))
    c.polygon([(34, 67), (49, 65), (53, 69), (37, 71.5)], (60, 130, 190), (40, 100, 160))
    c.polygon([(36, 67.7), (48, 66.2), (48.8, 67), (36.7, 68.6)], (240, 240, 240))
    return c.finish()


def sunset_sea() -> Image.Image:
    c = Canvas(seed=2)
    c.sky((58, 44, 92), (250, 142, 66), until=42)
    c.clouds(until=40, colour=(120, 60, 84), cover=0.5, cells=3)
    c.glow(50, 40, 36, (255, 196, 96), 0.95)
    c.ellipse(50, 38, 6, 6, (255, 240, 180), (255, 190, 90))
    c.water(42, 75, (196, 102, 66), (30, 26, 58), sparkle=(255, 190, 110))
    for i in range(60):
        y = 42.5 + i * 0.53
        half = 2 + i * 0.09 + c.rng.uniform(-1.5, 1.5)
        c.line([(50 - half + c.rng.uniform(-1, 1), y), (50 + half, y)], (255, 196, 112), 0.3)
    c.land(75, 3, (18, 14, 30), cells=3)
    c.polygon([(12, 44), (24, 44), (21.5, 46.5), (14, 46.5)], (24, 18, 34))
    c.polygon([(17.5, 43.4), (17.5, 28), (25, 43.4)], (40, 28, 46))
    c.polygon([(16.8, 43.4), (16.8, 30), (11.5, 43.4)], (52, 36, 52))
    return c.finish(grain=5)


def palm_island() -> Image.Image:
    c = Canvas(seed=3)
    c.sky((40, 128, 206), (196, 230, 244), until=40)
    c.clouds(until=36, cover=0.5)
    c.water(40, 75, (20, 120, 168), (90, 206, 206), sparkle=(255, 255, 255))
    c.ellipse(52, 58, 36, 9, (244, 222, 170), (226, 198, 142))
    c.texture(50, 67, strength=0.12, cells=90)
    for x, lean, height in ((44, -6, 34), (60, 8, 28)):
        trunk = [(x + lean * t * t, 58 - height * t) for t in (i / 12 for i in range(13))]
        for (x0, y0), (x1, y1) in pairwise(trunk):
            c.line([(x0, y0), (x1, y1)], (128, 92, 58), 1.7)
        top_x, top_y = trunk[-1]
        for angle in range(0, 360, 36):
            a = math.radians(angle + 8)
            leaf = [
                (top_x + 13 * t * math.cos(a), top_y + 9 * t * math.sin(a) * 0.6 + 9 * t * t - 3 * t)
                for t in (i / 10 for i in range(11))
            ]
            c.line(leaf, (32, 110, 48), 1.6)
            c.line(leaf, (74, 160, 70), 0.6)
        c.ball(top_x - 0.8, top_y + 1, 1, (96, 60, 30))
        c.ball(top_x + 1, top_y + 1.2, 1, (96, 60, 30))
    return c.finish()


def lighthouse() -> Image.Image:
    c = Canvas(75, 100, seed=4)
    c.sky((84, 148, 204), (226, 236, 240), until=66)
    c.clouds(until=60, cover=0.55, cells=3)
    c.water(66, 100, (36, 92, 130), (22, 62, 96), sparkle=(230, 240, 245))
    c.polygon(
        [(30, 74), (36, 66), (44, 63), (58, 62), (75, 60), (75, 100), (50, 100), (40, 90), (26, 84)],
        (118, 112, 104),
        (58, 52, 50),
    )
    c.polygon([(36, 66), (44, 63), (58, 62), (75, 60), (75, 66), (56, 67)], (98, 150, 76), (70, 110, 60))
    for i in range(7):
        t0, t1 = i / 7, (i + 1) / 7
        w0, w1 = 5.6 - 2 * (1 - t0), 5.6 - 2 * (1 - t1)
        colour = (206, 44, 40) if i % 2 else (246, 244, 238)
        y0, y1 = 24 + 40 * t0, 24 + 40 * t1
        c.polygon([(56 - w0, y0), (56, y0), (56, y1), (56 - w1, y1)], colour)
        c.polygon([(56, y0), (56 + w0, y0), (56 + w1, y1), (56, y1)], mix(colour, (0, 0, 0), 0.25))
    c.box(50.5, 22.6, 11, 1.6, (60, 60, 64))
    c.box(53, 17, 6, 5.6, (255, 236, 160), (230, 190, 90))
    for x in (53.0, 55, 57, 59):
        c.line([(x, 17), (x, 22.6)], (60, 60, 64), 0.3)
    c.polygon([(52.4, 17), (56, 12.4), (59.6, 17)], (180, 36, 34))
    c.glow(56, 19.5, 14, (255, 240, 180), 0.6)
    for _ in range(40):
        x = 26 + c.rng.uniform(0, 26)
        c.ellipse(x, 84 + (x - 26) * 0.6 + c.rng.uniform(-2, 2), c.rng.uniform(0.6, 2), 0.7, (240, 246, 248))
    return c.finish()


def snowy_mountains() -> Image.Image:
    c = Canvas(seed=5)
    c.sky((52, 116, 190), (206, 226, 240), until=50)
    c.clouds(until=30, cover=0.35)
    for base, peaks, rock in (
        (46, [(-5, 40), (12, 24), (26, 34), (44, 18), (60, 32), (76, 22), (105, 38)], (150, 168, 192)),
        (52, [(-5, 46), (8, 36), (30, 10), (40, 22), (52, 34), (70, 16), (84, 32), (105, 26)], (92, 100, 120)),
    ):
        c.polygon([*peaks, (105, base), (-5, base)], rock, mix(rock, (40, 60, 70), 0.4))
        for (x0, y0), (x1, y1), (x2, y2) in zip(peaks, peaks[1:], peaks[2:], strict=False):
            if y1 < y0 and y1 < y2:
                left = (x1 + (x0 - x1) * 0.5, y1 + (y0 - y1) * 0.5)
                right = (x1 + (x2 - x1) * 0.5, y1 + (y2 - y1) * 0.5)
                zigzag = [
                    (left[0] + (right[0] - left[0]) * t, left[1] + (right[1] - left[1]) * t + (3.5 if i % 2 else -1.5))
                    for i, t in enumerate((0.12, 0.3, 0.45, 0.6, 0.75, 0.9))
                ]
                c.polygon([(x1, y1), left, *zigzag, right], (250, 252, 255), (226, 234, 244))
                c.polygon([(x1, y1), (x1 + 0.6, y1 + 8), *zigzag[3:], right], (204, 216, 234))
    c.land(52, 1.5, (58, 96, 62), (40, 74, 50))
    c.water(56, 75, (72, 120, 158), (30, 66, 92), sparkle=(220, 235, 245))
    for x in (4, 9, 13, 85, 90, 96):
        c.pine(x, 62 + c.rng.uniform(0, 8), c.rng.uniform(14, 22))
    return c.finish()


def foggy_forest() -> Image.Image:
    c = Canvas(75, 100, seed=6)
    c.sky((196, 208, 208), (222, 226, 220))
    for layer in range(5):
        share = layer / 4
        green = mix((168, 186, 182), (22, 48, 36), share)
        for _ in range(13 - layer):
            x = c.rng.uniform(-4, 79)
            c.pine(x, 62 + 9 * layer + c.rng.uniform(-2, 4), c.rng.uniform(34, 46) + 6 * layer, green)
        c.glow(37, 60 + 9 * layer, 60, (220, 226, 222), 0.35 * (1 - share))
    return c.finish(grain=5)


def autumn_park() -> Image.Image:
    c = Canvas(seed=7)
    c.sky((150, 190, 222), (236, 236, 224), until=50)
    c.land(46, 2, (166, 150, 70), (126, 104, 48))
    c.texture(46, 75, strength=0.25, cells=120, flat=2)
    c.polygon([(44, 46), (48, 46), (72, 75), (26, 75)], (204, 188, 160), (180, 160, 130))
    for x, y, h, leaves in (
        (30.0, 48.0, 22, (214, 128, 34)), (66, 48, 22, (196, 74, 30)), (14, 56, 40, (224, 160, 40)),
        (86, 57, 42, (190, 58, 28)), (38, 46, 14, (222, 176, 60)), (57, 46, 14, (212, 120, 40)),
    ):  # fmt: skip
        c.shadow(x, y, h * 0.25, 1.4)
        c.tree(x, y, h, leaves, (62, 46, 36))
    for _ in range(420):
        y = c.rng.uniform(50, 75)
        warm: Colour = ((220, 140, 40), (196, 70, 30), (236, 190, 70))[int(c.rng.integers(3))]
        c.ellipse(c.rng.uniform(0, 100), y, 0.2 + (y - 50) / 50, 0.14 + (y - 50) / 80, warm, turn=c.rng.uniform(0, 180))
    c.box(62, 58, 14, 1, (96, 62, 36))
    c.box(62, 54, 14, 1.2, (110, 72, 42))
    for x in (63.0, 74.5):
        c.box(x, 54, 0.8, 8, (50, 44, 40))
    return c.finish()


def cabin_in_snow() -> Image.Image:
    c = Canvas(seed=8)
    c.sky((16, 24, 56), (70, 84, 128), until=50)
    for _ in range(160):
        c.ellipse(c.rng.uniform(0, 100), c.rng.uniform(0, 36), 0.12, 0.12, (240, 244, 255))
    c.land(44, 5, (58, 66, 96), (80, 90, 124))
    for x in (6.0, 14, 22, 78, 88, 95):
        c.pine(x, 55 + c.rng.uniform(-2, 3), c.rng.uniform(20, 32), (30, 48, 66))
    c.land(54, 1.5, (196, 208, 232), (150, 166, 204))
    c.texture(54, 75, strength=0.1, cells=30, flat=3)
    c.box(38, 42, 26, 15, (104, 66, 42), (72, 44, 30))
    for y in range(43, 57, 2):
        c.line([(38, y), (64, y)], (62, 38, 26), 0.25)
    c.polygon([(34, 43), (51, 29), (68, 43)], (236, 242, 250), (204, 216, 236))
    c.box(57, 29, 4, 7, (96, 60, 50))
    for i in range(6):
        c.glow(59 + i * 1.2, 27 - i * 3.4, 3 + i * 0.8, (190, 196, 214), 0.4)
    for x in (41.0, 56):
        c.box(x, 46, 5, 5, (255, 214, 120), (250, 180, 80))
        c.line([(x + 2.5, 46), (x + 2.5, 51)], (80, 50, 34), 0.3)
        c.glow(x + 2.5, 49, 9, (255, 200, 110), 0.45)
    c.box(49, 48, 5, 9, (60, 36, 26))
    for ball_y, r in ((66, 4.4), (60, 3.2), (55.4, 2.3)):
        c.ball(22, ball_y, r, (226, 232, 244))
    c.polygon([(22, 55.4), (25, 56), (22, 56.3)], (236, 120, 40))
    c.box(19.6, 51.4, 4.8, 0.8, (30, 30, 36))
    c.box(20.4, 48.4, 3.2, 3.2, (30, 30, 36))
    for x in (21.2, 22.8):
        c.ellipse(x, 54.8, 0.3, 0.3, (20, 20, 20))
    for _ in range(240):
        r = c.rng.uniform(0.1, 0.35)
        c.ellipse(c.rng.uniform(0, 100), c.rng.uniform(0, 75), r, r, (246, 248, 255))
    return c.finish()


def city_at_night() -> Image.Image:
    c = Canvas(seed=9)
    c.sky((10, 12, 34), (70, 52, 92), until=56)
    c.ellipse(82, 11, 4, 4, (246, 242, 220), (226, 218, 190))
    for layer, wall in enumerate(((38, 38, 66), (24, 26, 48), (14, 16, 32))):
        x = -2.0
        while x < 100:
            width, height = c.rng.uniform(6, 12), c.rng.uniform(14, 44) - layer * 5
            c.box(x, 58 - height, width, height, mix(wall, (70, 60, 100), 0.2), wall)
            for row in range(int((height - 3) / 1.9)):
                for col in range(int((width - 1.4) / 1.5)):
                    if c.rng.random() < 0.5:
                        lit = mix((255, 206, 110), (190, 220, 255), float(c.rng.random() ** 3))
                        c.box(
                            x + 0.9 + col * 1.5,
                            58 - height + 1.5 + row * 1.9,
                            0.8,
                            1.1,
                            mix(wall, lit, 0.45 + 0.25 * layer),
                        )
            if c.rng.random() < 0.3:
                c.line([(x + width / 2, 58 - height), (x + width / 2, 53 - height)], wall, 0.3)
                c.glow(x + width / 2, 53 - height, 1.6, (255, 60, 50), 0.9)
            x += width + c.rng.uniform(-0.5, 1.5)
    upper = c.image.crop((0, round(28 * c.scale), c.image.width, round(58 * c.scale)))
    mirrored = upper.transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize((c.image.width, round(17 * c.scale)))
    c.image.paste(Image.blend(mirrored, Image.new("RGB", mirrored.size, (14, 18, 44)), 0.45), (0, round(58 * c.scale)))
    c.texture(58, 75, strength=0.12, cells=120, flat=8)
    c.line([(0, 58), (100, 58)], (60, 60, 70), 0.5)
    for x in range(4, 100, 9):
        c.line([(x, 58), (x, 54.4)], (40, 40, 48), 0.25)
        c.glow(x, 54.2, 3, (255, 214, 140), 0.9)
    return c.finish(grain=6)


def bridge() -> Image.Image:
    c = Canvas(seed=10)
    c.sky((120, 160, 200), (240, 226, 206), until=50)
    c.clouds(until=40, cover=0.4)
    c.land(48, 3, (98, 124, 116), (70, 98, 90))
    c.water(52, 75, (116, 148, 166), (56, 88, 110), sparkle=(250, 240, 220))
    red: Colour = (188, 62, 44)
    for x in (26.0, 74):
        c.box(x - 1.6, 14, 1.1, 46, red, mix(red, (0, 0, 0), 0.4))
        c.box(x + 0.5, 14, 1.1, 46, red, mix(red, (0, 0, 0), 0.4))
        for y in (16.0, 24, 32):
            c.box(x - 1.6, y, 3.2, 1, red)
        c.box(x - 3, 59, 6, 3, (130, 124, 118), (90, 86, 84))
    c.box(0, 44, 100, 2, red, mix(red, (0, 0, 0), 0.35))
    for x0, x1, y0, y1 in ((-22, 26, 15, 15), (26, 74, 15, 15), (74, 122, 15, 15)):
        cable = [
            (x0 + (x1 - x0) * t, y0 + (y1 - y0) * t + 26 * (1 - (2 * t - 1) ** 2)) for t in (i / 40 for i in range(41))
        ]
        c.line(cable, red, 0.6)
        for x, y in cable[::2]:
            c.line([(x, y), (x, 44)], red, 0.15)
    return c.finish()


def red_car() -> Image.Image:
    c = Canvas(seed=11)
    c.sky((124, 180, 224), (226, 236, 240), until=40)
    c.clouds(until=34, cover=0.45)
    c.land(38, 3, (110, 150, 96), (84, 130, 70), cells=4)
    for x in (8, 20, 84, 94):
        c.tree(x, 44, c.rng.uniform(16, 22), (70, 128, 58))
    c.box(0, 46, 100, 6, (150, 172, 108), (130, 156, 92))
    c.texture(40, 52, strength=0.2, cells=120, flat=2)
    c.box(0, 52, 100, 23, (112, 112, 116), (84, 84, 90))
    c.texture(52, 75, strength=0.12, cells=160, flat=2)
    for x in range(-4, 100, 16):
        c.polygon([(x, 70), (x + 9, 70), (x + 8.4, 71.2), (x - 0.8, 71.2)], (236, 236, 230))
    c.car(22, 65, 58, (206, 24, 28))
    return c.finish()


def yellow_bus() -> Image.Image:
    c = Canvas(seed=12)
    c.sky((160, 196, 224), (230, 234, 232), until=46)
    wall_colours: tuple[Colour, ...] = ((188, 128, 100), (206, 190, 160), (150, 110, 96), (198, 160, 120))
    for i, x in enumerate(range(-2, 100, 17)):
        wall = wall_colours[i % 4]
        top = 6 + float(c.rng.uniform(0, 8))
        c.box(x, top, 16.6, 54 - top, wall, mix(wall, (0, 0, 0), 0.15))
        for row in range(5):
            for col in range(3):
                c.box(x + 2.2 + col * 4.6, top + 4 + row * 7.5, 2.8, 4.4, (96, 120, 142), (150, 176, 196))
    c.box(0, 54, 100, 3, (176, 172, 166))
    c.box(0, 57, 100, 18, (104, 104, 108), (80, 80, 86))
    c.texture(57, 75, strength=0.1, cells=150, flat=2)
    c.shadow(50, 67, 38, 3, 0.7)
    c.rounded(16, 30, 68, 34, 3, (246, 190, 28))
    c.rounded(16, 56, 68, 8, 2, (214, 156, 18))
    for i in range(6):
        c.rounded(19 + i * 9.2, 35, 8, 11, 0.8, (70, 96, 116))
        c.polygon([(20 + i * 9.2, 45), (24 + i * 9.2, 36), (26 + i * 9.2, 36), (22 + i * 9.2, 45)], (130, 158, 178))
    c.rounded(75, 35, 8, 26, 0.8, (60, 84, 102))
    c.line([(79, 35), (79, 61)], (246, 190, 28), 0.5)
    c.box(16, 50, 58, 1.2, (40, 40, 44))
    c.rounded(40, 31, 18, 3, 0.5, (20, 20, 22))
    c.text(49, 32.5, "42  CENTRAL STATION", 1.5, (255, 176, 40))
    for x in (29, 68):
        c.ellipse(x, 64, 4.6, 4.6, (22, 22, 24))
        c.ellipse(x, 64, 2.4, 2.4, (180, 182, 186), (110, 112, 118))
    return c.finish()


def dog() -> Image.Image:
    c = Canvas(seed=13)
    c.sky((170, 206, 230), (220, 234, 224), until=40)
    c.land(30, 3, (120, 166, 92), (92, 146, 66))
    c.texture(30, 75, strength=0.3, cells=160, flat=1.5)
    fur: Colour = (196, 132, 66)
    dark, light = mix(fur, (60, 30, 10), 0.45), mix(fur, (255, 240, 210), 0.35)
    c.shadow(52, 69, 26, 3.5, 0.6)
    c.line([(72, 46), (80, 38), (82, 30)], fur, 3)
    c.ellipse(56, 48, 19, 11.5, light, dark)
    for x, shade in ((44.0, dark), (68, dark), (40, fur), (64, fur)):
        c.polygon([(x - 2.4, 50), (x + 2.6, 50), (x + 1.9, 68), (x - 1.8, 68)], shade, mix(shade, (0, 0, 0), 0.15))
        c.ellipse(x - 0.4, 68, 3, 1.7, light, fur)
    c.ellipse(43, 40, 9, 11, light, fur, turn=-20)
    c.ellipse(34, 28, 11, 10, light, fur)
    c.ellipse(28, 32.5, 7, 5, mix(light, (255, 255, 255), 0.4), light)
    c.ellipse(23.4, 30, 2.2, 1.7, (30, 22, 20))
    c.arc(27, 33, 4, 2.6, 20, 150, (60, 34, 24), 0.5)
    c.ellipse(27.4, 37.4, 1.8, 2.6, (232, 110, 116), (206, 80, 90))
    for x in (30.4, 37.4):
        c.ellipse(x, 25.5, 1.35, 1.5, (40, 24, 16))
        c.ellipse(x - 0.4, 25, 0.4, 0.4, (255, 255, 255))
    c.ellipse(43, 28, 3.6, 8.4, dark, mix(dark, (0, 0, 0), 0.2), turn=-14)
    c.ellipse(26.5, 21, 3, 6.6, dark, mix(dark, (0, 0, 0), 0.2), turn=28)
    c.arc(39, 38, 9, 7, 10, 120, (200, 30, 40), 1.6)
    c.ball(38, 45.5, 1.3, (236, 196, 60))
    c.ball(14, 65, 4, (196, 224, 60))
    c.arc(14, 65, 3.4, 3.4, 200, 300, (245, 250, 230), 0.4)
    return c.finish()


def cat() -> Image.Image:
    c = Canvas(75, 100, seed=14)
    c.sky((222, 206, 186), (200, 178, 152))
    c.box(0, 70, 75, 30, (150, 60, 60), (116, 40, 46))
    c.texture(70, 100, strength=0.12, cells=120)
    c.box(8, 6, 30, 36, (240, 240, 236))
    c.box(10, 8, 26, 32, (140, 190, 224), (206, 226, 236))
    c.line([(23, 8), (23, 40)], (240, 240, 236), 1)
    fur: Colour = (128, 128, 134)
    dark, light = mix(fur, (0, 0, 0), 0.45), mix(fur, (255, 255, 255), 0.35)
    c.shadow(40, 91, 24, 4, 0.6)
    c.line([(56, 86), (66, 84), (70, 74), (66, 66)], fur, 4)
    c.ellipse(42, 73, 16.5, 19, light, dark)
    for y in (62, 67, 72):
        c.arc(42, y + 8, 14, 12, 230, 310, dark, 1.1)
    c.ellipse(42, 78, 8, 12, (226, 224, 222), (190, 188, 190))
    for x in (35.0, 48):
        c.ellipse(x, 89, 4.4, 3, light, fur)
    for side in (-1, 1):
        c.polygon([(42 + side * 13, 49), (42 + side * 12.5, 29), (42 + side * 2.5, 39)], fur, dark)
        c.polygon([(42 + side * 11.2, 44), (42 + side * 11, 33), (42 + side * 5, 39.5)], (226, 160, 160))
    c.ellipse(42, 47, 14.5, 12, light, fur)
    for x in (36.6, 41.9, 47.2):
        c.line([(x, 36.5), (42 + (x - 42) * 0.7, 41.5)], dark, 0.9)
    for x in (36.0, 48):
        c.ellipse(x, 46, 3.1, 2.8, (196, 214, 60), (120, 160, 40))
        c.ellipse(x, 46, 0.9, 2.5, (16, 16, 16))
        c.ellipse(x - 0.7, 44.9, 0.5, 0.5, (255, 255, 255))
    c.ellipse(39.6, 53, 3.6, 2.8, (232, 230, 228))
    c.ellipse(44.4, 53, 3.6, 2.8, (232, 230, 228))
    c.polygon([(40.6, 50.2), (43.4, 50.2), (42, 52)], (224, 130, 136))
    for side in (-1, 1):
        for dy in (-1.6, 0, 1.6):
            c.line([(42 + side * 4.5, 53 + dy * 0.4), (42 + side * 17, 52 + dy * 2)], (246, 246, 246), 0.22)
    return c.finish()


def aquarium() -> Image.Image:
    c = Canvas(seed=15)
    c.sky((40, 150, 206), (8, 50, 110))
    for x in (16, 40, 66, 88):
        c.polygon([(x, -2), (x + 7, -2), (x - 4, 75), (x - 18, 75)], (52, 160, 212), (10, 58, 120))
    c.land(66, 2.5, (226, 206, 150), (190, 164, 108))
    for x, colour in ((10, (226, 80, 110)), (84, (240, 140, 60)), (72, (170, 80, 190))):
        for _ in range(9):
            lean, h = c.rng.uniform(-7, 7), c.rng.uniform(8, 17)
            c.line([(x, 69), (x + lean * 0.4, 69 - h * 0.6), (x + lean, 69 - h)], colour, 1.3)
    for x in (28, 33, 55):
        wave = [(x + 1.8 * math.sin(t / 3), 70 - t) for t in range(0, 38, 2)]
        c.line(wave, (40, 140, 70), 1.4)
    for x, y, size, body, facing in (
        (30, 30, 8, (250, 130, 30), 1), (62, 22, 6, (250, 214, 50), -1), (56, 46, 9, (60, 90, 220), 1),
        (80, 38, 5, (250, 130, 30), -1), (16, 50, 5, (230, 70, 90), 1), (42, 15, 4, (250, 214, 50), 1),
    ):  # fmt: skip
        c.polygon(
            [
                (x - facing * size * 0.8, y),
                (x - facing * size * 1.6, y - size * 0.55),
                (x - facing * size * 1.6, y + size * 0.55),
            ],
            mix(body, (0, 0, 0), 0.15),
        )
        c.polygon(
            [(x - facing * size * 0.4, y - size * 0.4), (x, y - size * 0.9), (x + facing * size * 0.4, y - size * 0.4)],
            mix(body, (0, 0, 0), 0.2),
        )
        c.ellipse(x, y, size, size * 0.55, mix(body, (255, 255, 255), 0.25), mix(body, (0, 0, 0), 0.2))
        for shift in (-0.35, 0.25):
            c.ellipse(x + facing * size * shift, y, size * 0.1, size * 0.48, (250, 250, 250))
        c.ellipse(x + facing * size * 0.62, y - size * 0.1, size * 0.13, size * 0.13, (255, 255, 255))
        c.ellipse(x + facing * size * 0.66, y - size * 0.1, size * 0.07, size * 0.07, (10, 10, 10))
    for _ in range(40):
        r = c.rng.uniform(0.2, 0.9)
        c.arc(
            c.rng.choice([24, 48, 77]) + c.rng.uniform(-2, 2), c.rng.uniform(4, 60), r, r, 0, 360, (190, 226, 244), 0.14
        )
    return c.finish(vignette=0.3)


def robin() -> Image.Image:
    c = Canvas(seed=16)
    c.sky((196, 214, 196), (150, 178, 140))
    for _ in range(16):
        c.glow(c.rng.uniform(0, 100), c.rng.uniform(0, 75), c.rng.uniform(8, 16), (226, 236, 196), 0.5)
    c.line([(-2, 62), (30, 57), (66, 56), (102, 49)], (92, 70, 52), 3)
    c.line([(-2, 61.4), (30, 56.2), (66, 55.2), (102, 48.2)], (136, 110, 86), 0.8)
    for x, y in ((12, 57), (78, 51), (90, 47), (24, 60)):
        c.ellipse(x, y, 4, 1.7, (110, 160, 66), (76, 128, 48), turn=-30)
    c.polygon([(64, 42), (84, 50), (80, 54), (60, 48)], (96, 76, 58), (70, 54, 42))
    c.ellipse(53, 39, 15, 12, (134, 108, 84), (222, 210, 196), turn=18)
    c.ellipse(46, 38, 9.5, 11, (226, 104, 40), (238, 190, 150), turn=8)
    c.ellipse(41, 26, 8.4, 7.8, (128, 104, 82), (220, 96, 36))
    c.ellipse(38, 28, 5.6, 5.4, (226, 100, 36), (226, 110, 46))
    c.polygon([(33.4, 25), (28.6, 26.6), (33.6, 27.8)], (60, 52, 48))
    c.ellipse(38.6, 24.4, 1.3, 1.3, (14, 12, 12))
    c.ellipse(38.2, 24, 0.4, 0.4, (255, 255, 255))
    c.polygon([(52, 34), (70, 42), (66, 47), (54, 44)], (110, 86, 64), (84, 64, 48))
    for x in (48, 54):
        c.line([(x, 49), (x - 0.6, 56)], (70, 50, 40), 0.6)
    return c.finish()


def sheep() -> Image.Image:
    c = Canvas(seed=17)
    c.sky((110, 172, 226), (222, 236, 242), until=40)
    c.clouds(until=30, cover=0.5)
    c.land(32, 4, (134, 178, 96), (104, 156, 70), cells=3)
    c.land(44, 4, (116, 172, 74), (86, 148, 52), cells=3)
    c.texture(34, 75, strength=0.22, cells=150, flat=2)
    for x in range(-4, 104, 9):
        c.box(x, 34, 0.8, 7, (126, 100, 74))
    c.line([(-2, 36), (102, 36)], (140, 112, 84), 0.6)
    c.line([(-2, 39), (102, 39)], (140, 112, 84), 0.6)
    for x, y, s in ((24, 46, 0.7), (78, 50, 0.9), (44, 60, 1.4), (90, 44, 0.55)):
        c.shadow(x, y + 7.5 * s, 10 * s, 1.4 * s)
        for dx in (-4.5, -2, 2.6, 5):
            c.box(x + dx * s, y + 2 * s, 1.1 * s, 6 * s, (40, 36, 36))
        for _ in range(34):
            a, r = c.rng.uniform(0, 2 * math.pi), c.rng.uniform(0, 1) ** 0.5
            px, py = x + 6.4 * s * r * math.cos(a), y + 3.6 * s * r * math.sin(a)
            tone = mix((250, 248, 240), (200, 196, 186), min(1.0, max(0.0, (py - y) / (7 * s) + 0.4)))
            c.ellipse(px, py, 1.9 * s, 1.7 * s, tone)
        c.ellipse(x - 8.4 * s, y - 1.4 * s, 2.2 * s, 2.9 * s, (52, 46, 46), (34, 30, 30), turn=24)
        c.ellipse(x - 6.4 * s, y - 3.2 * s, 1.6 * s, 0.7 * s, (44, 40, 40), turn=20)
        c.ellipse(x - 8.9 * s, y - 2.2 * s, 0.35 * s, 0.35 * s, (240, 240, 240))
    return c.finish()


def butterfly() -> Image.Image:
    c = Canvas(seed=18)
    c.sky((120, 164, 96), (74, 124, 66))
    for _ in range(22):
        c.glow(c.rng.uniform(0, 100), c.rng.uniform(0, 75), c.rng.uniform(6, 14), (176, 208, 120), 0.45)
    c.line([(54, 46), (50, 76)], (60, 110, 50), 1.4)
    for i in range(14):
        a = i * 2 * math.pi / 14
        c.ellipse(
            54 + 9 * math.cos(a),
            47 + 4.6 * math.sin(a),
            4.6,
            2,
            (226, 130, 200),
            (180, 80, 160),
            turn=math.degrees(math.atan2(4.6 * math.sin(a), 9 * math.cos(a))),
        )
    c.ellipse(54, 46, 5.4, 3, (240, 190, 60), (196, 130, 30))
    for side in (-1, 1):
        c.polygon(
            [(54, 34), (54 + side * 8, 12), (54 + side * 25, 6), (54 + side * 28, 16), (54 + side * 22, 30), (54, 38)],
            (30, 24, 22),
        )
        c.polygon(
            [
                (54 + side * 2, 33),
                (54 + side * 9, 14.5),
                (54 + side * 23, 9),
                (54 + side * 25, 16),
                (54 + side * 20, 28),
            ],
            (250, 150, 30),
            (226, 96, 20),
        )
        c.polygon([(54, 36), (54 + side * 19, 32), (54 + side * 21, 42), (54 + side * 11, 51), (54, 42)], (30, 24, 22))
        c.polygon(
            [(54 + side * 2, 37), (54 + side * 17, 34), (54 + side * 18, 41), (54 + side * 10, 48)],
            (250, 160, 40),
            (226, 110, 24),
        )
        for angle in (0.2, 0.45, 0.7):
            c.line(
                [(54 + side * 2, 35), (54 + side * 24 * math.cos(angle), 35 - 26 * math.sin(angle))], (30, 24, 22), 0.8
            )
        for dx, dy in ((25.4, 12), (24.4, 19), (20, 29), (18.6, 44), (14, 48)):
            c.ellipse(54 + side * dx, dy, 0.7, 0.7, (255, 250, 240))
        c.line([(54, 29), (54 + side * 5, 20)], (24, 20, 20), 0.35)
    c.ellipse(54, 37, 1.4, 8.4, (36, 30, 28))
    return c.finish()


def _flower(c: Canvas, x: float, y: float, radius: float, petals: int, colour: Colour, middle: Colour) -> None:
    for ring, tone in ((1.0, mix(colour, (0, 0, 0), 0.15)), (0.86, colour)):
        for i in range(petals):
            a = 2 * math.pi * (i + (0.5 if ring < 1 else 0)) / petals
            far = radius * 0.66 * ring
            c.ellipse(
                x + far * math.cos(a),
                y + far * math.sin(a),
                radius * 0.4 * ring,
                radius * 1.7 / petals,
                mix(tone, (255, 255, 255), 0.12),
                tone,
                turn=math.degrees(a),
            )
    c.ball(x, y, radius * 0.34, middle)


def sunflowers() -> Image.Image:
    c = Canvas(seed=19)
    c.sky((64, 140, 214), (206, 230, 244), until=40)
    c.clouds(until=34, cover=0.4)
    c.land(36, 1, (120, 150, 40), (60, 100, 34))
    for row in range(9):
        y, size = 38 + row * row * 0.5, 1.1 + row * 0.75
        for i in range(round(90 / size / 2.4) + 1):
            x = (i + 0.5 * (row % 2)) * size * 2.7 + c.rng.uniform(-0.5, 0.5) * size
            c.line([(x, y), (x, y + size * 3.4)], (66, 112, 42), size * 0.22)
            c.ellipse(x + size * 0.7, y + size * 1.7, size * 0.8, size * 0.36, (84, 142, 52), (52, 100, 36), turn=-25)
            _flower(c, x, y, size * 1.2, 15, (250, 196, 24), (92, 56, 26))
    return c.finish()


def tulip_field() -> Image.Image:
    c = Canvas(seed=20)
    c.sky((130, 184, 226), (232, 238, 240), until=34)
    c.clouds(until=27, cover=0.5)
    c.land(30, 0.6, (110, 150, 90), (90, 140, 70))
    c.polygon([(74, 30), (75, 17), (81, 17), (82, 30)], (190, 176, 150), (150, 130, 110))
    c.polygon([(74, 17), (78, 12), (82, 17)], (96, 70, 56))
    for a in (20, 110, 200, 290):
        dx, dy = 10 * math.cos(math.radians(a)), 10 * math.sin(math.radians(a))
        c.line([(78, 17), (78 + dx, 17 + dy)], (90, 76, 66), 0.5)
        c.polygon(
            [
                (78 + dx * 0.2, 17 + dy * 0.2),
                (78 + dx, 17 + dy),
                (78 + dx - dy * 0.22, 17 + dy + dx * 0.22),
                (78 + dx * 0.2 - dy * 0.22, 17 + dy * 0.2 + dx * 0.22),
            ],
            (232, 226, 214),
        )
    colours: tuple[Colour, ...] = ((214, 30, 46), (246, 196, 40), (226, 80, 150), (240, 120, 40), (140, 60, 170))
    for stripe in range(-8, 14):
        colour = colours[stripe % 5]
        left, right = 50 + (stripe * 13 - 50) * 0.12, 50 + ((stripe + 1) * 13 - 50) * 0.12
        c.polygon(
            [
                (left, 32),
                (right, 32),
                (50 + ((stripe + 0.75) * 13 - 50) * 1.9, 75),
                (50 + (stripe * 13 - 50) * 1.9, 75),
            ],
            mix(colour, (120, 150, 80), 0.35),
            colour,
        )
    for _ in range(900):
        depth = c.rng.uniform(0, 1) ** 0.6
        y = 33 + 42 * depth
        spread = 0.12 + 1.78 * (y - 32) / 43
        x = c.rng.uniform(0, 100)
        stripe = math.floor(((x - 50) / spread + 50) / 13)
        r = 0.25 + 1.3 * depth
        tone = mix(colours[stripe % 5], (255, 255, 255), c.rng.uniform(0, 0.3))
        c.line([(x, y), (x, y + r * 2.2)], (80, 130, 60), r * 0.25)
        c.ellipse(x, y, r * 0.6, r, tone, mix(tone, (0, 0, 0), 0.25))
    return c.finish()


def roses() -> Image.Image:
    c = Canvas(75, 100, seed=21)
    c.sky((226, 216, 206), (196, 180, 168))
    c.box(0, 78, 75, 22, (140, 100, 70), (110, 76, 52))
    c.texture(78, 100, strength=0.12, cells=60, flat=8)
    c.shadow(40, 92, 20, 3, 0.5)
    for x, y in ((24, 34), (40, 24), (54, 36), (32, 46), (48, 48)):
        c.line([(x, y), (38 + (x - 38) * 0.2, 72)], (52, 96, 48), 1)
    for x, y, turn in ((20, 52, 30), (56, 54, -30), (30, 60, 50), (48, 62, -50), (60, 44, -20), (17, 42, 20)):
        c.ellipse(x, y, 6, 2.6, (78, 130, 66), (46, 92, 44), turn=turn)
    for x, y in ((24, 34), (40, 24), (54, 36), (32, 46), (48, 48)):
        for ring in range(9, 0, -1):
            angle = ring * 2.4
            tone = mix((120, 10, 26), (232, 60, 76), ring / 9 if ring % 2 else ring / 13)
            c.ellipse(
                x + 1.2 * math.cos(angle) * ring / 9,
                y + 1.2 * math.sin(angle) * ring / 9,
                0.95 * ring,
                0.86 * ring,
                mix(tone, (255, 255, 255), 0.1),
                tone,
                turn=ring * 40,
            )
    c.polygon([(29, 66), (47, 66), (50, 92), (26, 92)], (176, 206, 220), (120, 156, 180))
    c.polygon([(31, 68), (34, 68), (32, 90), (29, 90)], (226, 240, 246))
    return c.finish()


def pizza() -> Image.Image:
    c = Canvas(seed=22)
    c.sky((150, 104, 68), (116, 76, 46))
    c.texture(0, 75, strength=0.2, cells=50, flat=10)
    c.shadow(50, 41, 38, 34, 0.7)
    c.ellipse(50, 38, 34, 33, (244, 242, 238), (214, 212, 208))
    c.ellipse(50, 38, 30.5, 29.6, (214, 158, 88), (176, 112, 52))
    c.ellipse(50, 38, 27, 26.2, (200, 58, 30))
    for _ in range(240):
        a, r = c.rng.uniform(0, 2 * math.pi), 26 * c.rng.uniform(0, 1) ** 0.5
        tone = mix((250, 226, 140), (238, 178, 80), c.rng.uniform(0, 1))
        c.ellipse(50 + r * math.cos(a), 38 + r * 0.97 * math.sin(a), c.rng.uniform(1.2, 3), c.rng.uniform(1, 2.4), tone)
    for i in range(13):
        a, r = i * 2.4, 5.6 * math.sqrt(i + 0.3)
        x, y = 50 + r * math.cos(a), 38 + r * 0.97 * math.sin(a)
        c.ellipse(x, y, 3.7, 3.6, (206, 64, 44), (166, 36, 26))
        for _ in range(5):
            c.ellipse(x + c.rng.uniform(-2, 2), y + c.rng.uniform(-2, 2), 0.4, 0.4, (236, 140, 110))
    for i in range(9):
        a, r = i * 2.1 + 1, 8 + 2 * (i % 7)
        c.ellipse(50 + r * math.cos(a), 38 + r * math.sin(a), 3, 1.5, (70, 140, 60), (34, 92, 38), turn=i * 47)
    for angle in (30, 90, 150):
        dx, dy = 30 * math.cos(math.radians(angle)), 29 * math.sin(math.radians(angle))
        c.line([(50 - dx, 38 - dy), (50 + dx, 38 + dy)], (150, 60, 30), 0.3)
    return c.finish()


def birthday_cake() -> Image.Image:
    c = Canvas(seed=23)
    c.sky((74, 44, 70), (120, 70, 84))
    for _ in range(26):
        tone: Colour = ((255, 200, 120), (240, 130, 170), (140, 180, 255))[int(c.rng.integers(3))]
        c.glow(c.rng.uniform(0, 100), c.rng.uniform(0, 40), c.rng.uniform(3, 7), tone, 0.5)
    c.box(0, 60, 100, 15, (240, 232, 224), (206, 192, 184))
    c.shadow(50, 65, 34, 4, 0.6)
    c.ellipse(50, 63, 32, 5, (250, 250, 250), (200, 204, 210))
    for x, y, w, h, tone in ((26, 42, 48, 20, (122, 70, 44)), (32, 29, 36, 14, (250, 226, 232))):
        c.ellipse(x + w / 2, y + h, w / 2, 3, mix(tone, (0, 0, 0), 0.3))
        c.box(x, y, w, h, tone, mix(tone, (0, 0, 0), 0.25))
        c.ellipse(x + w / 2, y, w / 2, 3.4, mix(tone, (255, 255, 255), 0.25))
        for i in range(int(w / 4)):
            c.ellipse(x + 2 + i * 4, y + 2.6 + 1.4 * math.sin(i * 1.7), 2, 3, (255, 250, 246))
        for i in range(int(w / 3)):
            dot: Colour = ((226, 60, 90), (70, 150, 220), (250, 200, 60))[i % 3]
            c.ball(x + 1.6 + i * 3.05, y + h - 1.2, 0.9, dot)
    for i, x in enumerate((38, 44, 50, 56, 62)):
        stripe: Colour = ((80, 160, 230), (240, 90, 130))[i % 2]
        c.box(x - 0.6, 17.5, 1.2, 10.5, stripe, mix(stripe, (255, 255, 255), 0.3))
        c.glow(x, 14.6, 7, (255, 210, 120), 0.8)
        c.ellipse(x, 14.8, 0.9, 2.2, (255, 250, 210), (255, 170, 50))
    return c.finish()


def fruit_bowl() -> Image.Image:
    c = Canvas(seed=24)
    c.sky((206, 214, 210), (180, 188, 184), until=50)
    c.box(0, 50, 100, 25, (164, 118, 80), (124, 84, 52))
    c.texture(50, 75, strength=0.18, cells=40, flat=12)
    c.shadow(50, 67, 32, 4, 0.6)
    for i in range(9):
        t = i / 8
        c.ellipse(
            30 + 30 * t,
            26 - 10 * math.sin(math.pi * t) + 4,
            4.2,
            3.4,
            (250, 216, 60),
            (214, 164, 30),
            turn=-40 + 80 * t,
        )
    for x, y, r, tone in (
        (34, 38, 8.6, (206, 34, 36)), (66, 38, 8.6, (110, 176, 50)), (50, 33, 8.8, (240, 140, 30)),
        (58, 43, 8, (206, 40, 40)), (42, 44, 8, (242, 150, 40)),
    ):  # fmt: skip
        c.ball(x, y, r, tone)
        c.line([(x, y - r * 0.8), (x + 0.8, y - r * 1.15)], (86, 60, 36), 0.5)
    for i in range(15):
        c.ball(71 + 3 * math.cos(i * 2.4), 44 + 2.6 * math.sin(i * 1.9), 1.9, (104, 50, 120))
    c.polygon([(20, 48), (80, 48), (70, 65), (60, 68), (40, 68), (30, 65)], (74, 120, 170), (36, 66, 110))
    c.ellipse(50, 48, 30, 2.4, (110, 156, 200))
    c.ball(50, 43.8, 4.8, (206, 40, 40))
    return c.finish()


def coffee_cup() -> Image.Image:
    c = Canvas(seed=25)
    c.sky((112, 78, 56), (84, 56, 40))
    c.texture(0, 75, strength=0.16, cells=40, flat=14)
    c.shadow(48, 46, 34, 24, 0.7)
    c.ellipse(48, 44, 30, 22, (244, 244, 242), (206, 206, 206))
    c.ellipse(48, 43.4, 22, 15.5, (226, 226, 224))
    c.arc(70, 38, 8, 6, -100, 110, (238, 238, 236), 2.6)
    c.ellipse(48, 38, 20, 14.6, (252, 252, 250), (216, 216, 214))
    c.ellipse(48, 37, 17.6, 12.4, (110, 66, 36), (70, 38, 20))
    for ring in range(5, 0, -1):
        tone = (238, 212, 174) if ring % 2 else (150, 96, 56)
        s = ring * 1.7
        c.polygon(
            [
                (
                    48 + s * 0.98 * math.sin(t) ** 3,
                    37
                    - s * 0.72 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
                )
                for t in (i * 2 * math.pi / 40 for i in range(40))
            ],
            tone,
        )
    c.line([(14, 60), (40, 68)], (190, 192, 198), 1.1)
    c.ellipse(12, 59, 4.4, 2.4, (210, 212, 218), (150, 152, 160), turn=20)
    for x, y in ((84, 62), (89, 58), (80, 67), (91, 66)):
        c.ellipse(x, y, 2.6, 1.8, (86, 50, 28), (50, 28, 16), turn=x * 7)
        c.line([(x - 1.4, y - 0.4), (x + 1.4, y + 0.4)], (36, 20, 12), 0.3)
    return c.finish()


def football() -> Image.Image:
    c = Canvas(seed=26)
    c.sky((96, 150, 206), (206, 224, 236), until=20)
    c.box(0, 16, 100, 10, (86, 90, 106), (60, 62, 78))
    for _ in range(900):
        tone: Colour = ((220, 60, 60), (240, 240, 240), (70, 110, 200), (240, 200, 80), (40, 40, 50))[
            int(c.rng.integers(5))
        ]
        c.ellipse(c.rng.uniform(0, 100), c.rng.uniform(16.4, 25.4), 0.4, 0.45, tone)
    for stripe in range(7):
        y = 26 + stripe * stripe + stripe * 1.1
        tone = (64, 142, 60) if stripe % 2 else (78, 160, 70)
        c.box(0, y, 100, 20, tone)
    c.texture(26, 75, strength=0.16, cells=200, flat=2)
    white: Colour = (244, 246, 242)
    c.line([(30, 27), (70, 27)], white, 0.3)
    c.line([(20, 27), (8, 40), (92, 40), (80, 27)], white, 0.4)
    c.arc(50, 40, 12, 3.5, 0, 180, white, 0.4)
    c.line([(38, 27), (38, 13.4), (62, 13.4), (62, 27)], white, 0.9)
    for x in range(39, 62, 2):
        c.line([(x, 14), (x, 26)], (226, 230, 232), 0.08)
    for y in range(15, 27, 2):
        c.line([(38, y), (62, y)], (226, 230, 232), 0.08)
    for x, y, s, shirt in ((24, 52, 1.0, (206, 36, 40)), (70, 46, 0.75, (50, 90, 200)), (50, 30, 0.5, (240, 200, 40))):
        c.shadow(x, y + 8 * s, 6 * s, 1 * s)
        c.line([(x - 1.2 * s, y), (x - 3 * s, y + 8 * s)], (226, 180, 150), 1.3 * s)
        c.line([(x + 1.2 * s, y), (x + 3.6 * s, y + 7 * s)], (226, 180, 150), 1.3 * s)
        c.box(x - 2.4 * s, y - 2 * s, 4.8 * s, 3.4 * s, (244, 244, 244))
        c.polygon(
            [
                (x - 2.6 * s, y - 9 * s),
                (x + 2.6 * s, y - 9 * s),
                (x + 2.4 * s, y - 1.6 * s),
                (x - 2.4 * s, y - 1.6 * s),
            ],
            shirt,
            mix(shirt, (0, 0, 0), 0.2),
        )
        c.line([(x - 2.6 * s, y - 8.4 * s), (x - 5.4 * s, y - 4 * s)], shirt, 1.3 * s)
        c.line([(x + 2.6 * s, y - 8.4 * s), (x + 5.8 * s, y - 6 * s)], shirt, 1.3 * s)
        c.ball(x, y - 11.2 * s, 1.9 * s, (226, 180, 150))
        c.ellipse(x, y - 12.2 * s, 1.9 * s, 1.2 * s, (60, 40, 30))
    c.shadow(40, 67, 5, 1)
    c.ball(40, 63, 4, (240, 240, 240))
    for a in range(5):
        dx, dy = 2.6 * math.cos(a * 1.2566 - 1.57), 2.6 * math.sin(a * 1.2566 - 1.57)
        c.ellipse(40 + dx, 63 + dy, 0.9, 0.9, (30, 30, 34))
    c.ellipse(40, 63, 1.1, 1.1, (30, 30, 34))
    return c.finish()


def balloons() -> Image.Image:
    c = Canvas(75, 100, seed=27)
    c.sky((70, 140, 210), (246, 222, 190), until=90)
    c.clouds(until=80, cover=0.4, cells=3)
    c.land(84, 3, (140, 150, 100), (90, 110, 70), cells=3)
    palettes: tuple[tuple[Colour, Colour], ...] = (
        ((214, 50, 46), (250, 220, 80)), ((50, 110, 200), (245, 245, 245)), ((120, 60, 160), (250, 170, 60)), ((40, 150, 110), (250, 230, 120)),
    )  # fmt: skip
    for (x, y, r), (one, two) in zip(((26, 30, 15), (55, 50, 9), (59, 18, 6), (14, 66, 5)), palettes, strict=True):
        for i in range(10, 0, -1):
            half = r * i / 10
            tone = one if i % 2 else two
            c.ellipse(x, y, half, r * 1.08, mix(tone, (255, 255, 255), 0.12), mix(tone, (0, 0, 0), 0.2))
            c.polygon(
                [
                    (x - half * 0.86, y + r * 0.55),
                    (x + half * 0.86, y + r * 0.55),
                    (x + half * 0.22, y + r * 1.5),
                    (x - half * 0.22, y + r * 1.5),
                ],
                mix(tone, (0, 0, 0), 0.12),
            )
        for dx in (-0.2, 0.2):
            c.line([(x + dx * r, y + r * 1.5), (x + dx * r * 0.8, y + r * 1.9)], (80, 60, 50), 0.15)
        c.box(x - r * 0.18, y + r * 1.88, r * 0.36, r * 0.3, (140, 96, 56), (96, 62, 36))
    return c.finish()


def fireworks() -> Image.Image:
    c = Canvas(seed=28)
    c.sky((6, 8, 26), (34, 28, 62))
    tones: tuple[Colour, ...] = ((255, 90, 80), (120, 210, 255), (255, 214, 100), (170, 255, 150), (240, 130, 255))
    for (x, y, r), tone in zip(
        ((28, 22, 19), (66, 18, 16), (86, 36, 12), (48, 40, 13), (12, 44, 10)), tones, strict=True
    ):
        c.glow(x, y, r * 1.3, tone, 0.45)
        for ray in range(44):
            a, far = 2 * math.pi * ray / 44, r * c.rng.uniform(0.8, 1)
            end = (x + far * math.cos(a), y + far * math.sin(a) + far * 0.12)
            c.line(
                [(x + far * 0.35 * math.cos(a), y + far * 0.35 * math.sin(a)), end],
                mix(tone, (255, 255, 255), 0.25),
                0.18,
            )
            c.ellipse(end[0], end[1], 0.4, 0.4, (255, 255, 240))
        c.ellipse(x, y, 0.9, 0.9, (255, 255, 255))
    c.land(68, 1.5, (4, 4, 10), cells=7)
    for x in range(2, 100, 5):
        h = c.rng.uniform(3, 9)
        c.box(x, 68 - h, 4.4, h + 4, (6, 6, 14))
        for _ in range(3):
            c.box(x + c.rng.uniform(0.4, 3.4), 68 - h + c.rng.uniform(0.5, h), 0.4, 0.5, (240, 200, 120))
    return c.finish(grain=6)


def moon_and_stars() -> Image.Image:
    c = Canvas(75, 100, seed=29)
    c.sky((8, 12, 40), (44, 60, 110))
    c.clouds(until=70, colour=(110, 110, 170), cover=0.4, cells=2)
    for _ in range(500):
        r = c.rng.uniform(0.06, 0.2) ** 1.0
        c.ellipse(c.rng.uniform(0, 75), c.rng.uniform(0, 84), r, r, (250, 250, 255))
    c.glow(46, 32, 24, (236, 236, 220), 0.7)
    c.ellipse(46, 32, 11, 11, (250, 248, 232), (224, 220, 200))
    for x, y, r in ((42, 28, 2.4), (49, 30, 1.6), (46, 37, 2.8), (51, 36, 1.3), (40, 35, 1.4), (47, 25, 1.1)):
        c.ellipse(x, y, r, r, (212, 208, 188), (226, 222, 202))
    c.land(86, 5, (14, 18, 36), (6, 8, 18))
    for x in (6, 12, 20, 60, 68):
        c.pine(x, 92, c.rng.uniform(14, 26), (10, 16, 28))
    return c.finish(grain=6)


def terminal_screenshot() -> Image.Image:
    c = Canvas(100, 62, seed=30, px_per_unit=12.8)
    c.sky((60, 84, 130), (110, 80, 130))
    c.rounded(6, 4, 88, 54, 1.4, (24, 26, 34))
    c.rounded(6, 4, 88, 5, 1.4, (58, 60, 70))
    c.box(6, 7, 88, 2, (58, 60, 70))
    for i, tone in enumerate(((240, 90, 80), (244, 190, 70), (90, 200, 90))):
        c.ellipse(9 + i * 2.6, 6.5, 0.8, 0.8, tone)
    c.text(50, 6.6, "terminal: backup server", 1.5, (200, 204, 214))
    lines: tuple[tuple[str, Colour], ...] = (
        ("$ rsync -av photos/ backup:/archive/photos/", (240, 240, 240)),
        ("sending incremental file list", (150, 158, 172)),
        ("photos/2024/  1,204 files   3.9 GB", (150, 158, 172)),
        ("photos/2025/    862 files   2.7 GB", (150, 158, 172)),
        ("sent 6.61 GB  received 41 KB  58.2 MB/s", (150, 158, 172)),
        ("$ df -h /archive", (240, 240, 240)),
        ("Filesystem   Size  Used  Avail  Use%", (120, 200, 250)),
        ("/dev/sdb1    3.6T  2.9T   640G   83%", (250, 210, 110)),
        ("$ python check_disk.py --warn 80", (240, 240, 240)),
        ("WARNING: disk is 83 % full", (250, 120, 110)),
        ("$ _", (120, 240, 140)),
    )
    for i, (words, tone) in enumerate(lines):
        c.text(9, 13 + i * 4, words, 2.1, tone, anchor="lm")
    return c.finish(grain=0, vignette=0)


def whiteboard() -> Image.Image:
    c = Canvas(seed=31)
    c.sky((206, 204, 198), (180, 176, 170))
    c.box(5, 5, 90, 62, (150, 152, 156))
    c.box(6.4, 6.4, 87.2, 59.2, (250, 250, 250), (236, 238, 240))
    c.glow(76, 14, 22, (255, 255, 255), 0.9)
    blue: Colour = (30, 70, 180)
    c.text(50, 13, "How search works", 4, (30, 34, 40))
    for x, y, words in ((18, 32, "query"), (50, 32, "embed"), (82, 32, "index"), (50, 54, "ranked hits")):
        w = 9 if words != "ranked hits" else 13
        box = [(x - w, y - 5), (x + w, y - 4.6), (x + w + 0.4, y + 5), (x - w + 0.3, y + 4.7), (x - w, y - 5)]
        c.line(box, blue, 0.5)
        c.text(x, y, words, 3.2, (30, 34, 40))
    red: Colour = (206, 50, 44)
    for x0, y0, x1, y1 in ((27.5, 32, 40, 32.4), (59.5, 32, 72, 31.7), (80, 38, 64.5, 52), (36, 54, 19, 39)):
        a = math.atan2(y1 - y0, x1 - x0)
        c.line([(x0, y0), (x1, y1)], red, 0.5)
        for turn in (2.6, -2.6):
            c.line([(x1, y1), (x1 + 2 * math.cos(a + turn), y1 + 2 * math.sin(a + turn))], red, 0.5)
    for i, tone in enumerate((blue, red, (30, 130, 60))):
        c.box(30 + i * 8, 67, 6, 1.4, tone)
    return c.finish(grain=3)


def city_map() -> Image.Image:
    c = Canvas(seed=32, px_per_unit=12.8)
    c.sky((242, 238, 228), (242, 238, 228))
    for _ in range(46):
        x, y = c.rng.uniform(0, 96), c.rng.uniform(0, 70)
        c.box(x, y, c.rng.uniform(3, 7), c.rng.uniform(2, 5), (226, 218, 204))
    for x, y, w, h in ((8, 8, 20, 13), (66, 44, 24, 18)):
        c.rounded(x, y, w, h, 2, (190, 220, 170))
    river = [(-2 + 104 * t, 38 + 7 * math.sin(5 * t) - 8 * t) for t in (i / 40 for i in range(41))]
    c.line(river, (150, 196, 226), 5.5)
    white: Colour = (255, 255, 255)
    for points, width in (
        ([(0, 24), (40, 26), (100, 16)], 1.6), ([(0, 58), (50, 56), (100, 64)], 1.6), ([(34, 0), (36, 40), (30, 75)], 1.6),
        ([(60, 0), (58, 36), (62, 75)], 1.6), ([(0, 10), (100, 6)], 0.8), ([(14, 24), (16, 75)], 0.8),
        ([(82, 0), (80, 75)], 0.8), ([(0, 68), (100, 72)], 0.8), ([(46, 0), (46, 30)], 0.8), ([(46, 50), (46, 75)], 0.8),
    ):  # fmt: skip
        c.line(points, (206, 198, 186), width + 0.5)
        c.line(points, white, width)
    c.line([(0, 47), (100, 33)], (230, 150, 60), 1.5)
    for x, y, words in (
        (18, 15, "City Park"),
        (78, 53, "Botanic Garden"),
        (70, 31.4, "River"),
        (24, 25.4, "Mill Street"),
        (82, 61.5, "Harbour Road"),
    ):
        c.text(x, y, words, 2, (80, 84, 90))
    for x, y, words in ((36, 44, "Station"), (58, 20, "Museum"), (48, 58, "Hotel")):
        c.ball(x, y, 1.7, (206, 50, 50))
        c.text(x + 2.6, y, words, 2.2, (40, 40, 46), anchor="lm")
    c.line([(36, 44), (36, 26), (58, 22)], (40, 90, 220), 0.7)
    c.polygon([(92, 6), (94, 14), (92, 12.4), (90, 14)], (60, 60, 66))
    c.text(92, 4.4, "N", 2.4, (60, 60, 66))
    c.box(80, 70.4, 14, 0.7, (60, 60, 66))
    c.text(87, 68.6, "500 m", 1.8, (60, 60, 66))
    return c.finish(grain=0, vignette=0)


@dataclass(frozen=True, slots=True)
class Picture:
    """One file of the demo: who paints it, and what a camera would have written into it.

    `captured_at` is EXIF time (`YYYY:MM:DD hh:mm:ss`), `gps` is (latitude, longitude) in degrees; `sideways` stores the
    pixels turned, with the EXIF orientation that turns them back, as phones do.
    """

    path: str
    paint: Painter
    captured_at: str | None = None
    camera: tuple[str, str] | None = None
    gps: tuple[float, float] | None = None
    sideways: bool = False


_PHONE = ("Fernweh", "Phone 7")
_CAMERA = ("Lumen", "D-40")

PICTURES = (
    Picture("photos/2024 Portugal/IMG_4021.jpg", beach, "2024:07:14 12:31:08", _PHONE, (37.0875, -8.6693)),
    Picture("photos/2024 Portugal/IMG_4022.jpg", sunset_sea, "2024:07:14 20:52:40", _PHONE, (37.0875, -8.6693)),
    Picture(
        "photos/2024 Portugal/IMG_4035.jpg",
        lighthouse,
        "2024:07:16 16:03:11",
        _PHONE,
        (37.0232, -8.9966),
        sideways=True,
    ),
    Picture("photos/2024 Portugal/IMG_4040.jpg", palm_island, "2024:07:17 11:20:00", _PHONE),
    Picture("photos/2024 Alps/DSC00102.jpg", snowy_mountains, "2024:10:03 09:15:27", _CAMERA, (46.5586, 7.8357)),
    Picture("photos/2024 Alps/DSC00107.jpg", foggy_forest, "2024:10:04 07:48:59", _CAMERA, sideways=True),
    Picture("photos/2024 Alps/DSC00111.jpg", autumn_park, "2024:10:05 14:22:10", _CAMERA),
    Picture("photos/2024 Alps/DSC00188.jpg", cabin_in_snow, "2024:12:27 18:40:33", _CAMERA),
    Picture("photos/town/IMG_5001.jpg", city_at_night, "2025:01:18 21:10:05", _PHONE, (51.5074, -0.1278)),
    Picture("photos/town/IMG_5006.jpg", bridge, "2025:01:19 10:02:44", _PHONE),
    Picture("photos/town/IMG_5010.jpg", red_car, "2025:03:02 13:33:19", _PHONE),
    Picture("photos/town/IMG_5013.jpg", yellow_bus, "2025:03:02 15:12:51", _PHONE),
    Picture("photos/town/IMG_5101.jpg", fireworks, "2025:12:31 23:59:58", _PHONE),
    Picture("photos/animals/rex.jpg", dog, "2025:04:20 17:25:36", _PHONE),
    Picture("photos/animals/minka.jpg", cat, "2025:02:11 08:05:12", _PHONE),
    Picture("photos/animals/IMG_5220.jpg", aquarium, "2025:05:09 14:44:02", _PHONE),
    Picture("photos/animals/IMG_5237.jpg", robin, "2025:05:11 07:19:45", _CAMERA),
    Picture("photos/animals/IMG_5241.jpg", sheep, "2025:05:18 12:00:30", _CAMERA),
    Picture("photos/garden/DSC00310.jpg", sunflowers, "2025:07:22 10:41:09", _CAMERA),
    Picture("photos/garden/DSC00316.jpg", tulip_field, "2025:04:27 11:58:20", _CAMERA),
    Picture("photos/garden/DSC00321.jpg", roses, "2025:06:14 09:30:00", _CAMERA),
    Picture("photos/garden/DSC00325.jpg", butterfly, "2025:06:30 13:13:13", _CAMERA),
    Picture("photos/food/IMG_5301.jpg", pizza, "2025:08:02 19:34:55", _PHONE),
    Picture("photos/food/IMG_5302.jpg", birthday_cake, "2025:08:09 16:00:00", _PHONE),
    Picture("photos/food/IMG_5310.jpg", fruit_bowl, "2025:08:12 08:22:16", _PHONE),
    Picture("photos/food/IMG_5311.jpg", coffee_cup, "2025:08:12 08:31:40", _PHONE),
    Picture("photos/IMG_5400.jpg", football, "2025:09:06 15:48:22", _PHONE),
    Picture("photos/IMG_5402.jpg", balloons, "2025:09:07 07:02:18", _CAMERA),
    Picture("photos/IMG_5407.jpg", moon_and_stars, "2025:09:07 22:47:31", _CAMERA),
    Picture("screens/Screenshot 2025-06-02.png", terminal_screenshot),
    Picture("screens/whiteboard.jpg", whiteboard, "2025:06:03 11:05:09", _PHONE),
    Picture("screens/walk.png", city_map),
)


def write_picture(picture: Picture, path: Path) -> None:
    """Paint `picture` into `path`: PNG without, JPEG with EXIF, by its suffix."""
    image = picture.paint()
    if path.suffix == ".png":
        image.save(path, optimize=False)
        return
    exif = Image.Exif()
    if picture.camera:
        exif[0x010F], exif[0x0110] = picture.camera  # Make, Model
    if picture.captured_at:
        exif[0x0132] = picture.captured_at  # DateTime
        exif.get_ifd(0x8769)[0x9003] = picture.captured_at  # DateTimeOriginal
    if picture.gps:
        place = exif.get_ifd(0x8825)
        for tag, degrees, (positive, negative) in ((1, picture.gps[0], "NS"), (3, picture.gps[1], "EW")):
            minutes, seconds = divmod(abs(degrees) * 3600, 60)
            whole, minutes = divmod(minutes, 60)
            place[tag] = positive if degrees >= 0 else negative
            place[tag + 1] = (whole, minutes, round(seconds, 2))
    if picture.sideways:
        exif[0x0112] = 6  # to be turned clockwise when shown
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(path, quality=88, exif=exif)
