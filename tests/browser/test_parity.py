"""What a browser shows of a file is what the model is shown of it."""

from __future__ import annotations

import pytest
from PIL import Image as pil

from tests.browser.browser import Browser
from tests.browser.corpus.case import Case
from tests.browser.parity import SUBJECTS, cases_of, compared, difference
from tests.support.builders import a_file, an_image


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_model_is_shown_what_a_browser_shows(browser: Browser, subject: str) -> None:
    seen = list(compared(browser, cases_of(subject)))
    means = [one.mean for one in seen]
    worst = max(seen, key=lambda one: one.worst)
    print(f"{subject}: {len(seen)} files, {sum(means) / len(means):.2f} levels on average, worst {worst}")
    assert not [str(one) for one in seen if one.wrong]


def test_another_picture_is_told_from_the_same(browser: Browser) -> None:
    """The measure can fail: one small block of another colour, and a picture that is a little darker all over."""
    shown, nothing = browser.draw(
        [Case("one", "png", a_file(an_image(400, 400, (200, 30, 30)))), Case("none", "png", b"no picture")]
    )
    assert nothing is None
    assert shown is not None
    assert difference(shown, an_image(400, 400, (200, 30, 30))) == (0, 0)
    spotted = an_image(400, 400, (200, 30, 30))
    spotted.paste(pil.new("RGB", (32, 32), (30, 200, 200)), (64, 96))
    mean, worst = difference(shown, spotted)
    assert (mean < 3, worst > 100) == (True, True)
    assert difference(shown, an_image(400, 400, (196, 26, 26)))[0] == 4
