"""Procedural pictures that need no download: `synthetic:shapes`.

Scene number i is a function of i alone: a shaded background with a little grain, and a few overlapping objects (balls,
boxes, rings, polygons, stars) with shadows, shading and texture. It is defined on the plane and only then put on a grid
of pixels, so one scene looks the same at every size. Each object is given by a signed distance d, negative inside; a
pixel of side p is covered by the share clip(1/2 - d / p, 0, 1), which is what makes the edges smooth.

Shading fills the lowest octaves of the spectrum, edges all of them, as in photographs, and texture and grain the
highest.

Pixels are computed with +, -, *, /, sqrt, abs, floor, minimum and maximum alone. All of these are exactly rounded, so
the pictures do not depend on how a machine vectorises sines.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

__all__ = ["SHAPES_VERSION", "shapes"]

# Part of the identity of training data: to be changed with anything that changes a pixel.
SHAPES_VERSION = 1

# Background, its second colour, and colours of objects; sRGB.
_PALETTES = (
    ("f6e7cb", "eac7a0", "d1495b", "00798c", "30638e", "edae49", "003d5b"),
    ("dff3e4", "a9d6c3", "171738", "2e1760", "3423a6", "7180b9", "f26b5e"),
    ("22223b", "3a4668", "f2e9e4", "c9ada7", "e07a5f", "81b29a", "f2cc8f"),
    ("ffe5d9", "ffcad4", "9d8189", "d8315b", "3e92cc", "0a2463", "f4acb7"),
    ("cfe8ef", "8fbcd4", "fb8500", "ffb703", "023047", "219ebc", "fdf0d5"),
    ("14342b", "2c5f4c", "ff8552", "e6e6e6", "f4d35e", "bbdfc5", "d14b8f"),
    ("fdf6ec", "dcd3c5", "2b2d42", "ef233c", "8d99ae", "ffb400", "2a9d8f"),
    ("2d1e2f", "5c3a58", "f15946", "f9c22e", "53b3cb", "e8e4d8", "a4d06f"),
)
_COLOURS = np.array(
    [[[int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)] for colour in palette] for palette in _PALETTES], np.float32
)
# Grain: cells across the shorter side, doubled as long as a cell is at least one pixel.
_COARSEST_GRAIN = 16
_GRAIN = 0.018

_Plane = np.ndarray  # one float32 number a pixel, shape (H, W)
_Distance = Callable[[_Plane, _Plane], _Plane]  # signed distance of a point (u, v) of the object's own frame


def shapes(index: int, size: tuple[int, int]) -> np.ndarray:
    """Scene number `index` as a picture.

    Args:
        index: Any integer from 0 on.
        size: (height, width) in pixels. Objects are scaled to the shorter side and spread out along the longer one.

    Returns:
        Pixels, uint8 of shape (height, width, 3).

    Raises:
        ValueError: If the index is negative or the size holds no pixels.
    """
    height, width = size
    if index < 0 or height < 1 or width < 1:
        raise ValueError(
            f"picture {index} at {height}x{width} pixels does not exist; use an index >= 0 and a size >= 1x1"
        )
    rng = np.random.default_rng([SHAPES_VERSION, index])
    draw = iter(rng.random(128).tolist())
    short = min(height, width)
    pixel = 2 / short
    y = ((np.arange(height, dtype=np.float32) + 0.5) * pixel - height / short)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5) * pixel - width / short)[None, :]
    canvas = _Canvas(x.astype(np.float32), y.astype(np.float32), np.float32(pixel))

    palette = _COLOURS[int(next(draw) * len(_COLOURS))]
    picture = _background(canvas, palette, draw)
    picture += _grain(canvas, rng)[None]
    turn = int(next(draw) * 5)
    colours = np.roll(palette[2:], turn, axis=0)
    count = 2 + int(next(draw) * 3)
    corner = next(draw)
    for number in range(count):
        # Objects stand around the middle at even angles, so that most of each is seen; the nearer, the larger.
        angle = 2 * math.pi * (corner + (number + 0.5 * next(draw)) / count)
        away = 0.2 + 0.4 * next(draw)
        radius = (0.58 - 0.06 * count) * (0.75 + 0.5 * next(draw)) + 0.05 * number
        centre = (away * math.cos(angle) * width / short, away * math.sin(angle) * height / short)
        _paint(picture, canvas, centre, radius, colours[number], colours[number + 1], draw)
    return np.ascontiguousarray((picture * 255 + 0.5).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


class _Canvas:
    """Coordinates of the pixels' centres; the shorter side runs from -1 to 1."""

    def __init__(self, x: np.ndarray, y: np.ndarray, pixel: np.float32):
        self.x, self.y, self.pixel = x, y, pixel

    def local(self, centre: tuple[float, float], angle: float) -> tuple[_Plane, _Plane]:
        """Coordinates in a frame moved to `centre` and turned by `angle`."""
        c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        dx, dy = self.x - np.float32(centre[0]), self.y - np.float32(centre[1])
        return c * dx + s * dy, c * dy - s * dx

    def cover(self, distance: _Plane, softness: float = 0.0) -> _Plane:
        """Share of each pixel inside a signed distance, with a blur of the width `softness`."""
        return np.minimum(np.maximum(0.5 - distance / (self.pixel + np.float32(softness)), 0), 1)


def _background(canvas: _Canvas, palette: np.ndarray, draw: Iterator[float]) -> np.ndarray:
    """A gradient between two colours, brighter around a light. Shape (3, H, W)."""
    along, _ = canvas.local((0, 0), 2 * math.pi * next(draw))
    light_x, light_y = canvas.local((next(draw) * 1.6 - 0.8, next(draw) * 1.6 - 0.8), 0)
    blend = np.minimum(np.maximum(0.5 + 0.45 * along, 0), 1)
    light = np.maximum(1 - 0.35 * (light_x * light_x + light_y * light_y), 0)
    picture = palette[0][:, None, None] * (1 - blend) + palette[1][:, None, None] * blend
    return picture * (0.82 + 0.18 * light)


def _grain(canvas: _Canvas, rng: np.random.Generator) -> _Plane:
    """Value noise, one octave after another, as fine as the pixels can hold."""
    total = np.zeros(np.broadcast_shapes(canvas.x.shape, canvas.y.shape), np.float32)
    cells = _COARSEST_GRAIN
    while cells == _COARSEST_GRAIN or cells * canvas.pixel <= 2:
        values = rng.random((cells, cells), dtype=np.float32) - np.float32(0.5)
        rows, down = _cell(canvas.y[:, 0], cells)
        columns, right = _cell(canvas.x[0], cells)
        top, bottom = values[rows], values[(rows + 1) % cells]
        column = top * (1 - down[:, None]) + bottom * down[:, None]
        total += column[:, columns] * (1 - right) + column[:, (columns + 1) % cells] * right
        cells *= 2
    return total * np.float32(4 * _GRAIN)


def _cell(position: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of the noise cell at each position, and how far into it the position lies."""
    scaled = (position + 1) * np.float32(cells / 2)
    whole = np.floor(scaled)
    return whole.astype(np.int64) % cells, scaled - whole


def _paint(
    picture: np.ndarray,
    canvas: _Canvas,
    centre: tuple[float, float],
    radius: float,
    colour: np.ndarray,
    second: np.ndarray,
    draw: Iterator[float],
) -> None:
    """One object and its shadow over a picture of shape (3, H, W), in place."""
    angle = 2 * math.pi * next(draw)
    kind = next(draw)
    ball = kind < 0.3
    distance = _disc(radius) if ball else _OBJECTS[int(next(draw) * len(_OBJECTS))](radius, draw)

    fall = 0.16 * radius
    shadow = canvas.cover(distance(*canvas.local((centre[0] + fall, centre[1] + 1.5 * fall), angle)), 0.35 * radius)
    picture *= 1 - np.float32(0.38) * shadow

    u, v = canvas.local(centre, angle)
    # The light comes from the upper left, whichever way the object is turned.
    across, down = canvas.local(centre, 0)
    slope = (across + 1.5 * down) * np.float32(1 / radius)
    if ball:
        # Height of the surface over the picture, and Lambert's law.
        z = np.sqrt(np.maximum(1 - (u * u + v * v) * np.float32(1 / radius**2), 0))
        shade = np.maximum(0.62 + 0.5 * z - 0.28 * slope, 0.3)
    else:
        shade = 1 - 0.13 * slope
    pattern = _TEXTURES[int(next(draw) * len(_TEXTURES))](canvas, u, v, radius)
    inside = canvas.cover(distance(u, v))
    for channel in range(3):
        body = (colour[channel] + (second[channel] - colour[channel]) * pattern) * shade
        picture[channel] += inside * (np.minimum(body, 1) - picture[channel])


def _disc(radius: float) -> _Distance:
    return lambda u, v: np.sqrt(u * u + v * v) - np.float32(radius)


def _box(radius: float, draw: Iterator[float]) -> _Distance:
    rounding = np.float32(0.3 * radius * next(draw))
    width, height = np.float32(0.85 * radius) - rounding, np.float32((0.5 + 0.35 * next(draw)) * radius) - rounding

    def distance(u: _Plane, v: _Plane) -> _Plane:
        across, down = np.abs(u) - width, np.abs(v) - height
        corner_x, corner_y = np.maximum(across, 0), np.maximum(down, 0)
        outside = np.sqrt(corner_x * corner_x + corner_y * corner_y)
        return outside + np.minimum(np.maximum(across, down), 0) - rounding

    return distance


def _ring(radius: float, draw: Iterator[float]) -> _Distance:
    half = np.float32((0.14 + 0.12 * next(draw)) * radius)
    middle = np.float32(radius) - half
    return lambda u, v: np.abs(np.sqrt(u * u + v * v) - middle) - half


def _polygon(radius: float, draw: Iterator[float]) -> _Distance:
    return _half_planes(radius, corners=3 + int(4 * next(draw)), skip=1)


def _star(radius: float, draw: Iterator[float]) -> _Distance:
    return _half_planes(1.12 * radius, corners=5 + int(3 * next(draw)), skip=2)


def _half_planes(radius: float, corners: int, skip: int) -> _Distance:
    """The polygon that joins every corner to the next (skip 1), or the star that joins it to the next but one (skip 2).

    With one line along each side, a point lies in the polygon if it is inside of all lines, and in the star if it is
    outside of at most one: the distance is the largest, or the second largest, of those to the lines.
    """
    angles = [2 * math.pi * corner / corners for corner in range(corners)]
    normals = [(np.float32(math.cos(angle)), np.float32(math.sin(angle))) for angle in angles]
    inner = np.float32(radius * math.cos(math.pi * skip / corners))

    def distance(u: _Plane, v: _Plane) -> _Plane:
        largest = second = np.full(u.shape, -np.inf, np.float32)
        for c, s in normals:
            beyond = c * u + s * v
            second = np.maximum(second, np.minimum(largest, beyond))
            largest = np.maximum(largest, beyond)
        return (largest if skip == 1 else second) - inner

    return distance


_OBJECTS: tuple[Callable[[float, Iterator[float]], _Distance], ...] = (_box, _ring, _polygon, _star)


def _plain(canvas: _Canvas, u: _Plane, v: _Plane, radius: float) -> _Plane | float:
    return 0.0


def _stripes(canvas: _Canvas, u: _Plane, v: _Plane, radius: float) -> _Plane:
    return _bands(canvas, u, 0.5 * radius)


def _checks(canvas: _Canvas, u: _Plane, v: _Plane, radius: float) -> _Plane:
    columns, rows = _bands(canvas, u, 0.7 * radius), _bands(canvas, v, 0.7 * radius)
    return columns + rows - 2 * columns * rows


def _rings(canvas: _Canvas, u: _Plane, v: _Plane, radius: float) -> _Plane:
    return _bands(canvas, np.sqrt(u * u + v * v), 0.5 * radius)


def _dots(canvas: _Canvas, u: _Plane, v: _Plane, radius: float) -> _Plane:
    side = np.float32(0.5 * radius)
    u, v = u / side, v / side
    u, v = u - np.floor(u) - np.float32(0.5), v - np.floor(v) - np.float32(0.5)
    return canvas.cover((np.sqrt(u * u + v * v) - np.float32(0.3)) * side)


def _bands(canvas: _Canvas, position: _Plane, period: float) -> _Plane:
    """Alternating bands of half a period; where a pixel holds a whole period they melt into their mean."""
    phase = position * np.float32(1 / period)
    return canvas.cover((np.abs(phase - np.floor(phase) - np.float32(0.5)) - np.float32(0.25)) * np.float32(period))


_TEXTURES = (_plain, _plain, _plain, _plain, _stripes, _checks, _rings, _dots)
