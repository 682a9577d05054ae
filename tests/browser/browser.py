"""A headless Chromium that draws image files, over WebDriver."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from PIL import Image as pil

from tests.browser.corpus.case import Case

PROGRAMS = ("chromium", "chromedriver")
SHEET = (1_280, 1_200)  # pixels of the window; what fits on the page is what WebDriver says of it
GAP = 3  # pixels around each picture, which stay white
STARTED = "started successfully on port "
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # of root, as in a container; it is shown nothing but this corpus
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--force-device-scale-factor=1",
    "--blink-settings=imageAnimationPolicy=2",  # of an animation, the first frame stays
    f"--window-size={SHEET[0]},{SHEET[1]}",
)
PAGE = "<!doctype html><meta charset=utf-8><style>body{margin:0;background:#fff}img{position:absolute}</style>"
# Its callback gets the natural size of each picture, [0, 0] of one that is not shown.
LOAD = """
const [files, done] = arguments;
for (const old of document.querySelectorAll('img')) { URL.revokeObjectURL(old.src); old.remove(); }
Promise.all(files.map(file => new Promise(resolve => {
  const image = new Image();
  image.decoding = 'sync';
  image.style.visibility = 'hidden';
  image.onload = () => resolve([image.naturalWidth, image.naturalHeight]);
  image.onerror = () => resolve([0, 0]);
  const bytes = Uint8Array.from(atob(file), character => character.charCodeAt(0));
  image.src = URL.createObjectURL(new Blob([bytes]));
  document.body.append(image);
}))).then(done);
"""
# Puts each picture of LOAD to its place, [] for one that is on another sheet, and returns once they are painted.
PLACE = """
const [places, done] = arguments;
document.querySelectorAll('img').forEach((image, index) => {
  const [x, y] = places[index];
  image.style.visibility = x === undefined ? 'hidden' : 'visible';
  image.style.left = `${x || 0}px`;
  image.style.top = `${y || 0}px`;
});
requestAnimationFrame(() => requestAnimationFrame(() => done(true)));
"""
# The frames of an animation, as a browser decodes them: [milliseconds, its pixels as a PNG].
FRAMES = """
const [file, type, done] = arguments;
(async () => {
  const data = Uint8Array.from(atob(file), character => character.charCodeAt(0));
  const decoder = new ImageDecoder({data, type});
  await decoder.completed;
  await decoder.tracks.ready;
  const frames = [];
  for (let frameIndex = 0; frameIndex < decoder.tracks.selectedTrack.frameCount; frameIndex++) {
    const {image} = await decoder.decode({frameIndex});
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.displayWidth, image.displayHeight];
    const context = canvas.getContext('2d');
    context.fillStyle = '#fff';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    frames.push([(image.duration || 0) / 1000, canvas.toDataURL('image/png').split(',')[1]]);
    image.close();
  }
  done(frames);
})().catch(error => done(String(error)));
"""
TYPES = {"gif": "image/gif", "png": "image/png", "webp": "image/webp", "avif": "image/avif", "jpg": "image/jpeg"}


def missing() -> str:
    """Why there is no browser on this machine; empty if there is one."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"there is no {' and no '.join(absent)} (apt-get install chromium chromium-driver)" if absent else ""


@dataclass(frozen=True, slots=True)
class Frame:
    milliseconds: float  # that it is shown
    picture: pil.Image  # RGB, on white


class Browser:
    """One page of one Chromium. `with Browser.started(folder) as browser: browser.draw(cases)`"""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection
        self._session = ""

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> Iterator[Self]:
        """`folder`: for its page, empty and its own."""
        page = folder / "page.html"
        page.write_text(PAGE)
        driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            connection = HTTPConnection("127.0.0.1", _port_of(driver), timeout=120)
            browser = cls(connection)
            try:
                browser._open(page.as_uri())
                yield browser
            finally:
                browser._close()
        finally:
            driver.terminate()
            driver.communicate(timeout=30)

    def draw(self, cases: Sequence[Case]) -> list[pil.Image | None]:
        """What a user sees of each file at its natural size on a white page, in RGB; None of what is not shown."""
        files = [base64.b64encode(case.data).decode() for case in cases]
        sizes: list[list[int]] = self._script(LOAD, files)
        width, height = self._script("arguments[0]([innerWidth, innerHeight])")
        pictures: list[pil.Image | None] = [None] * len(cases)
        waiting = sorted((index for index, size in enumerate(sizes) if all(size)), key=lambda index: -sizes[index][1])
        while waiting:
            places = _placed({index: sizes[index] for index in waiting}, width, height)
            assert places, f"{cases[waiting[0]].name} is larger than the page: {sizes[waiting[0]]}"
            self._script(PLACE, [places.get(index, []) for index in range(len(cases))])
            sheet = pil.open(BytesIO(base64.b64decode(self._call("GET", "/screenshot")))).convert("RGB")
            for index, (x, y) in places.items():
                pictures[index] = sheet.crop((x, y, x + sizes[index][0], y + sizes[index][1]))
            waiting = [index for index in waiting if index not in places]
        return pictures

    def frames(self, case: Case) -> list[Frame]:
        """All frames of an animation, as the browser decodes them."""
        answer = self._script(FRAMES, base64.b64encode(case.data).decode(), TYPES[case.suffix])
        assert isinstance(answer, list), f"{case.name}: {answer}"
        return [Frame(ms, pil.open(BytesIO(base64.b64decode(png))).convert("RGB")) for ms, png in answer]

    def _open(self, url: str) -> None:
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": ARGUMENTS}}
        answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{answer['sessionId']}"
        self._call("POST", "/timeouts", {"script": 60_000})
        self._call("POST", "/url", {"url": url})

    def _close(self) -> None:
        if self._session:
            self._call("DELETE", "")
        self._connection.close()

    def _script(self, script: str, *arguments: Any) -> Any:
        return self._call("POST", "/execute/async", {"script": script, "args": arguments})

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        self._connection.request(method, self._session + path, None if body is None else json.dumps(body))
        answer = json.loads(self._connection.getresponse().read())["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer


def _port_of(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout is not None
    for line in driver.stdout:
        if STARTED in line:
            return int(line.partition(STARTED)[2].strip(" .\n"))
    raise AssertionError("chromedriver ended before it listened")


def _placed(sizes: dict[int, list[int]], width: int, height: int) -> dict[int, tuple[int, int]]:
    """Where pictures lie on a page of that size, in rows. Those that do not fit are left out."""
    places: dict[int, tuple[int, int]] = {}
    x = y = GAP
    row = 0
    for index, (wide, high) in sizes.items():
        if x + wide + GAP > width and x > GAP:
            x, y, row = GAP, y + row + GAP, 0
        if x + wide + GAP <= width and y + high + GAP <= height:
            places[index] = (x, y)
            x, row = x + wide + GAP, max(row, high)
    return places
