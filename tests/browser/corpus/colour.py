"""Colour: what each format can say of it, what counts before what, and what browsers ignore."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from PIL import Image as pil

from tests.browser.corpus.case import Case
from tests.support import icc_profiles as icc
from tests.support.coloured import (
    EXCHANGED_XY,
    SRGB_XY,
    a_bmp,
    a_chart,
    a_file,
    a_jpeg,
    a_png,
    an_avif,
    an_avif_of_its_stream,
    chrm,
    chunk,
    cicp,
    clli,
    gama,
    iccp,
    segment,
    srgb,
    writing_in_the_lowest_bit,
)

CHART = a_chart()
EXCHANGED = icc.rgb(icc.EXCHANGED)
PROFILES = {
    "srgb": icc.rgb(),
    "display-p3": icc.rgb(icc.DISPLAY_P3),
    "display-p3-v4": icc.rgb(icc.DISPLAY_P3, version=4),
    "adobe-rgb": icc.rgb(icc.ADOBE_RGB, icc.gamma(2.19921875)),
    "prophoto": icc.rgb(icc.PROPHOTO, icc.gamma(1.8)),
    "rec-2020": icc.rgb(icc.REC_2020),
    "exchanged": EXCHANGED,
    "power-22": icc.rgb(icc.SRGB, icc.gamma(22)),
    "linear": icc.rgb(icc.SRGB, icc.table([])),
    "inverted": icc.rgb(icc.SRGB, icc.table([1 - level / 255 for level in range(256)])),
    "two-steps": icc.rgb(icc.SRGB, icc.table([0, 0, 0, 1, 1, 1])),
    "there-and-back": icc.rgb(icc.SRGB, icc.table([0, 1, 0])),
    "one-channel": icc.rgb(icc.SRGB, icc.table([0, 0]), icc.gamma(2.2), icc.table([0, 0])),
    "three-times": icc.rgb([[value * 3 for value in colour] for colour in icc.SRGB]),
    "brighter-than-white": icc.rgb(
        [[value / 3 for value in colour] for colour in icc.SRGB], icc.parametric(1, 2.2, 1.65, 0)
    ),
    "darker-than-black": icc.rgb(icc.SRGB, icc.parametric(4, 2.2, 1, 0, 0, 0, -0.3, 0)),
    "grey": icc.grey(icc.gamma(1)),
    "table-inverted": icc.inverted_table(),
    "table-before-primaries": icc.rgb(icc.EXCHANGED, A2B0=icc.inverted_lut()).replace(b"XYZ ", b"Lab ", 1),
    "cicp-linear": icc.rgb(icc.EXCHANGED, cicp=icc.code_points(1, 8)),
    "cicp-own-primaries": icc.rgb(icc.EXCHANGED, cicp=icc.code_points(2, 8)),
    "cicp-pq": icc.rgb(icc.SRGB, cicp=icc.code_points(9, 16)),
    "version-9": icc.rgb(icc.EXCHANGED, version=9),
    "without-signature": EXCHANGED.replace(b"acsp", b"xxxx"),
    "without-a-curve": EXCHANGED.replace(b"bTRC", b"xTRC"),
    "negative-power": icc.rgb(icc.SRGB, icc.parametric(0, -1)),
    "cut": EXCHANGED[:-40],
}


def cases() -> Iterator[Case]:
    for name, data in {**_gamma(), **_code_points(), **_order()}.items():
        yield Case(f"png-{name}", "png", data)
    for name, profile in PROFILES.items():
        yield Case(f"png-icc-{name}", "png", a_png(CHART, iccp(profile)))
        yield Case(f"jpeg-icc-{name}", "jpg", a_file(CHART, "JPEG", profile))
    yield from _modes()
    yield from _segments()
    yield from _hidden()
    yield from _avif()


def _gamma() -> dict[str, bytes]:
    values = (0, 1, 1_000, 30_000, 43_000, 45_455, 47_000, 50_000, 55_556, 100_000, 220_000, 400_000, 1 << 31)
    files = {f"gama-{value}": a_png(CHART, gama(value)) for value in values}
    files |= {f"gama-{value}-grey": a_png(CHART.convert("L"), gama(value)) for value in (1_000, 100_000, 400_000)}
    files |= {f"gama-{value}-alpha": a_png(_clear(), gama(value)) for value in (1_000, 100_000)}
    files["gama-palette"] = a_png(CHART.quantize(64), gama(100_000))
    deep = CHART.convert("L").convert("I").point(lambda value: value * 257, "I").convert("I;16")
    files["gama-16-bits"] = a_png(deep, gama(100_000))
    dark = CHART.convert("L").convert("I").point(lambda value: value * 8, "I").convert("I;16")
    files |= {f"gama-{value}-16-bits-dark": a_png(dark, gama(value)) for value in (30_000, 100_000, 220_000)}
    files["gama-chrm"] = a_png(CHART, gama(45_455), chrm(SRGB_XY))
    files["gama-chrm-exchanged"] = a_png(CHART, gama(45_455), chrm(EXCHANGED_XY))
    files["gama-chrm-wide"] = a_png(
        CHART, gama(55_556), chrm((0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0))
    )
    files["gama-chrm-collinear"] = a_png(CHART, gama(60_000), chrm((0.3127, 0.329, 0.6, 0.3, 0.6, 0.3, 0.6, 0.3)))
    files["gama-chrm-beyond-1"] = a_png(CHART, gama(60_000), chrm((0.3127, 0.329, 1.1, 0.3, 0.3, 0.6, 0.15, 0.06)))
    return files


def _clear() -> pil.Image:
    picture = CHART.convert("RGBA")
    picture.putalpha(CHART.getchannel("G"))
    return picture


def _code_points() -> dict[str, bytes]:
    files = {f"cicp-{code}-13": a_png(CHART, cicp(code, 13)) for code in (0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 22)}
    files |= {f"cicp-1-{code}": a_png(CHART, cicp(1, code)) for code in (1, 2, 4, 5, 7, 8, 11, 16, 17, 18)}
    files |= {f"cicp-9-{code}": a_png(CHART, cicp(9, code)) for code in (16, 18)}
    files |= {f"cicp-pq-{nits}": a_png(CHART, cicp(9, 16), clli(nits)) for nits in (203, 400, 4_000)}
    files["cicp-hlg-400"] = a_png(CHART, cicp(9, 18), clli(400))
    files["cicp-pq-grey"] = a_png(CHART.convert("L"), cicp(1, 16))
    files["cicp-narrow"] = a_png(CHART, cicp(9, 8, full=0))
    return files


def _order() -> dict[str, bytes]:
    broken = chunk(b"iCCP", b"p\0\0abcdef")
    return {
        "cicp-before-iccp": a_png(CHART, iccp(EXCHANGED), cicp(1, 8)),
        "iccp-before-srgb": a_png(CHART, srgb(), iccp(EXCHANGED)),
        "srgb-before-gama": a_png(CHART, gama(100_000), srgb()),
        "chrm-alone": a_png(CHART, chrm(EXCHANGED_XY)),
        "narrow-cicp-then-gama": a_png(CHART, cicp(9, 8, full=0), gama(100_000)),
        "broken-iccp-then-gama": a_png(CHART, broken, gama(100_000)),
        "broken-iccp-then-another": a_png(CHART, broken, iccp(EXCHANGED)),
        "grey-iccp-on-colour-then-gama": a_png(CHART, iccp(icc.grey(icc.gamma(1))), gama(100_000)),
        "twice": a_png(CHART, gama(100_000), gama(45_455)),
        "cut-profile": a_png(CHART, chunk(b"iCCP", b"p\0\0" + zlib.compress(EXCHANGED)[:-10])),
    }


def _hidden() -> Iterator[Case]:
    """The lowest bit of each sample is the picture, by the profile."""
    picture = writing_in_the_lowest_bit()
    for name, profile in (("curves", icc.lowest_bit()), ("table", icc.lowest_bit_table())):
        yield Case(f"png-hidden-{name}", "png", a_png(picture, iccp(profile)))


def _modes() -> Iterator[Case]:
    """Other formats, and pictures whose channels are not the profile's."""
    for name in ("display-p3", "exchanged", "power-22", "table-inverted"):
        profile = PROFILES[name]
        yield Case(f"webp-icc-{name}", "webp", a_file(CHART, "WEBP", profile))
        yield Case(f"avif-icc-{name}", "avif", a_file(CHART, "AVIF", profile))
        yield Case(f"bmp-icc-{name}", "bmp", a_bmp(CHART, profile))
        yield Case(f"jpeg-grey-icc-{name}", "jpg", a_file(CHART.convert("L"), "JPEG", profile))
        yield Case(f"jpeg-cmyk-icc-{name}", "jpg", a_file(CHART.convert("CMYK"), "JPEG", profile))
    for mode in ("L", "LA", "P"):
        for name in ("grey", "exchanged", "table-inverted"):
            yield Case(f"png-{mode}-icc-{name}", "png", a_file(CHART.convert(mode), "PNG", PROFILES[name]))
    yield Case("png-alpha-icc-exchanged", "png", a_file(_clear(), "PNG", EXCHANGED))
    yield Case("jpeg-grey-icc-grey", "jpg", a_file(CHART.convert("L"), "JPEG", PROFILES["grey"]))
    inks = icc.inks()
    yield Case("jpeg-cmyk-icc-inks", "jpg", a_file(CHART.convert("CMYK"), "JPEG", inks))
    yield Case("jpeg-icc-inks", "jpg", a_file(CHART, "JPEG", inks))
    unmarked = bytearray(a_file(CHART, "WEBP", EXCHANGED))
    unmarked[20] &= ~0x20
    yield Case("webp-icc-without-its-flag", "webp", bytes(unmarked))


def _segments() -> Iterator[Case]:
    linear = icc.rgb(icc.SRGB, icc.gamma(1))
    half = len(EXCHANGED) // 2
    first, second = EXCHANGED[:half], EXCHANGED[half:]
    files = {
        "two": [segment(1, 2, first), segment(2, 2, second)],
        "two-reversed": [segment(2, 2, second), segment(1, 2, first)],
        "the-first-is-missing": [segment(2, 2, second)],
        "counts-differ": [segment(1, 3, first), segment(2, 2, second)],
        "number-0": [segment(0, 1, EXCHANGED)],
        "count-0": [segment(1, 0, EXCHANGED)],
        "two-profiles": [segment(1, 1, EXCHANGED), segment(1, 1, linear)],
        "one-twice": [segment(1, 2, first), segment(1, 2, first), segment(2, 2, second)],
        "an-empty-one": [segment(1, 1, b""), segment(1, 1, EXCHANGED)],
    }
    for name, segments in files.items():
        yield Case(f"jpeg-segments-{name}", "jpg", a_jpeg(CHART, *segments))


def _avif() -> Iterator[Case]:
    for primaries, transfer in (
        (0, 8),
        (1, 1),
        (1, 4),
        (1, 8),
        (1, 13),
        (2, 2),
        (2, 8),
        (9, 13),
        (9, 16),
        (9, 18),
        (12, 13),
    ):
        yield Case(f"avif-{primaries}-{transfer}", "avif", an_avif(CHART, primaries, transfer))
    for transfer in (8, 13, 16):
        yield Case(f"avif-stream-{transfer}", "avif", an_avif_of_its_stream(CHART, transfer))
