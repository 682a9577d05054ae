"""RGB colour spaces: curves from samples to light, and the colours of the primaries. Code points are those of H.273.

Light is linear; white is 1. XYZ is relative to D50, as in ICC profiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Curve = Callable[[float], float]  # from a sample, 0 to 1, to light. The result may lie outside 0 to 1
Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]  # rows

WHITE_NITS = 203.0  # the luminance that is shown as white where a space names absolute ones (BT.2408)
PQ, HLG = 16, 18
D50: Vector = (0.9642, 1.0, 0.8249)
D65 = (0.3127, 0.3290)
BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
# By code point: x and y of red, green, blue and white.
PRIMARIES: dict[int, tuple[float, ...]] = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *D65),  # sRGB, BT.709
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.31, 0.316),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *D65),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *D65),
    7: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *D65),
    8: (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, 0.31, 0.316),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *D65),  # BT.2020
    10: (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1 / 3, 1 / 3),
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, *D65),  # Display P3
    22: (0.63, 0.34, 0.295, 0.605, 0.155, 0.077, *D65),
}


@dataclass(frozen=True, slots=True)
class Space:
    """An RGB colour space. `transfer`: PQ or HLG, whose light is brighter than white and is not per channel."""

    curves: tuple[Curve, Curve, Curve]
    to_xyz: Matrix
    transfer: int = 0


def times(matrix: Matrix, vector: Vector) -> Vector:
    x, y, z = vector
    first, second, third = (a * x + b * y + c * z for a, b, c in matrix)
    return first, second, third


def product(left: Matrix, right: Matrix) -> Matrix:
    a, b, c = (times(left, column) for column in zip(*right, strict=True))
    return (a[0], b[0], c[0]), (a[1], b[1], c[1]), (a[2], b[2], c[2])


def inverse(matrix: Matrix) -> Matrix | None:
    """None for a matrix that has none."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if not math.isfinite(determinant) or abs(determinant) < 1e-12:
        return None
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    first, second, third = ((x / determinant, y / determinant, z / determinant) for x, y, z in rows)
    return first, second, third


def to_xyz(primaries: Sequence[float]) -> Matrix | None:
    """From light to XYZ, by x and y of red, green, blue and white. None where they span no space.

    White is adapted to D50 by the Bradford method (ICC.1, annex E).
    """
    rx, ry, gx, gy, bx, by, wx, wy = primaries
    if not all(0 <= value <= 1 for value in primaries) or wy == 0:
        return None
    colours: Matrix = ((rx, gx, bx), (ry, gy, by), (1 - rx - ry, 1 - gx - gy, 1 - bx - by))
    back = inverse(colours)
    white = (wx / wy, 1.0, (1 - wx - wy) / wy)
    cones, there = times(BRADFORD, white), inverse(BRADFORD)
    if back is None or there is None or 0 in cones:
        return None
    r, g, b = times(back, white)
    x, y, z = (new / old for new, old in zip(times(BRADFORD, D50), cones, strict=True))
    adapted = product(product(there, ((x, 0.0, 0.0), (0.0, y, 0.0), (0.0, 0.0, z))), BRADFORD)
    return product(adapted, product(colours, ((r, 0.0, 0.0), (0.0, g, 0.0), (0.0, 0.0, b))))


def of_code_point(code: int) -> Matrix | None:
    """From light to XYZ for these primaries."""
    return to_xyz(PRIMARIES[code]) if code in PRIMARIES else None


def parametric(*parameters: float) -> Curve:
    """(ax + b)^g + e from d on, and cx + f below, by g, a, b, c, d, e, f (ICC.1, parametricCurveType).

    What is left out is a power: a is 1, the others 0.
    """
    g, a, b, c, d, e, f = (*parameters, *(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)[len(parameters) :])

    def curve(x: float) -> float:
        if x < d:
            return c * x + f
        base = a * x + b
        try:
            return (math.pow(base, g) if base > 0 else 0.0) + e
        except OverflowError:
            return math.inf

    return curve


def _pq(x: float) -> float:
    """SMPTE ST 2084."""
    root = math.pow(x, 32 / 2523)
    share = max(root - 3424 / 4096, 0.0) / (2413 / 128 - 2392 / 128 * root)
    return 10_000 / WHITE_NITS * math.pow(share, 16384 / 2610)


def _hlg(x: float) -> float:
    """BT.2100: the light of the scene."""
    return x * x / 3 if x <= 0.5 else (math.exp((x - 0.55991073) / 0.17883277) + 0.28466892) / 12


BT709 = parametric(2.4)  # of the screen, by BT.1886: not the curve of the camera
SRGB = parametric(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
LINEAR = parametric(1)
TRANSFERS: dict[int, Curve] = {
    1: BT709,
    4: parametric(2.2),
    5: parametric(2.8),
    6: BT709,
    7: parametric(1 / 0.45, 1 / 1.111572196, 0.111572196 / 1.111572196, 1 / 4, 0.091286342),
    8: LINEAR,
    11: BT709,
    13: SRGB,
    14: BT709,
    15: BT709,
    PQ: _pq,
    17: parametric(2.6, (52.37 / 48) ** (1 / 2.6)),
    HLG: _hlg,
}


def _there_and_back(code: int) -> tuple[Matrix, Matrix]:
    there = of_code_point(code)
    back = inverse(there) if there else None
    if there is None or back is None:
        raise KeyError(code)
    return there, back


SRGB_TO_XYZ, XYZ_TO_SRGB = _there_and_back(1)
BT2020_TO_XYZ, XYZ_TO_BT2020 = _there_and_back(9)


def of_code_points(primaries: int, transfer: int) -> Space | None:
    """None where one of them is not known."""
    matrix, curve = of_code_point(primaries), TRANSFERS.get(transfer)
    if matrix is None or curve is None:
        return None
    return Space((curve, curve, curve), matrix, transfer if transfer in (PQ, HLG) else 0)
