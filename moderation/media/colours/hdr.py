"""Shows colours that are brighter than white: PQ and HLG on an ordinary screen, as Chromium does.

Chromium applies the reference white tone mapping of SMPTE ST 2094-50, in BT.2020, by the largest of the three colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from moderation.media.colours.spaces import (
    BT2020_TO_XYZ,
    HLG,
    WHITE_NITS,
    XYZ_TO_BT2020,
    XYZ_TO_SRGB,
    Space,
    Vector,
    product,
    times,
)

PEAK_NITS = 1_000.0  # of HLG, and of a picture that does not say how bright it is
OOTF_EXPONENT = 0.2  # of HLG at this peak (BT.2100)


def light_on_screen(space: Space, peak_nits: float) -> Callable[[Vector], Vector]:
    """From samples of a PQ or HLG space to sRGB's light, which is 0 to 1 but for colours that sRGB lacks.

    `peak_nits`: the brightest of the picture.
    """
    into, out = product(XYZ_TO_BT2020, space.to_xyz), product(XYZ_TO_SRGB, BT2020_TO_XYZ)

    def light(samples: Vector) -> Vector:
        red, green, blue = (curve(sample) for curve, sample in zip(space.curves, samples, strict=True))
        if space.transfer == HLG:
            luminance = times(space.to_xyz, (red, green, blue))[1]
            factor = max(luminance, 1e-9) ** OOTF_EXPONENT * PEAK_NITS / WHITE_NITS
            red, green, blue = red * factor, green * factor, blue * factor
        bright = times(into, (red, green, blue))
        gain = _gain(max(bright), peak_nits / WHITE_NITS)
        return times(out, (bright[0] * gain, bright[1] * gain, bright[2] * gain))

    return light


def _gain(light: float, peak: float) -> float:
    """The tone mapping: a line up to white, then a quadratic Bezier curve up to the peak, which is shown as white."""
    if peak <= 1 or light <= 0:
        return 1.0
    white = 1 - 0.5 * min(1.0, math.log(peak) / math.log(PEAK_NITS / WHITE_NITS))
    if light <= 1:
        return white
    if light >= peak:
        return 1 / light
    middle_x, middle_y = 0.35 + 0.65 / white, 0.35 * white + 0.65
    a, b, c = 1 - 2 * middle_x + peak, 2 * middle_x - 2, 1 - light
    t = (-b + math.sqrt(max(0.0, b * b - 4 * a * c))) / (2 * a) if abs(a) > 1e-9 else -c / b
    return (white * (1 - t) ** 2 + 2 * t * (1 - t) * middle_y + t * t) / light
