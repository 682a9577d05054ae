"""The pictures of the demo's sample posts, drawn: `python -m moderation.training.pictures`. Needs the font."""

from __future__ import annotations

from pathlib import Path
from random import Random

import typer

from moderation.demo.posts import FOLDER
from moderation.training import pictographs
from moderation.training.world import BY_NAME

# The things in each picture. The seed of a picture is its place in this list.
PICTURES: dict[str, tuple[str, ...]] = {
    "sunflower.jpg": ("sunflower",),
    "knife.jpg": ("knife",),
    "bicycle.jpg": ("bicycle",),
    "wine-cheese.jpg": ("wine", "cheese"),
    "slots.png": ("slots",),
    "pill.webp": ("pill",),
    "cat.png": ("cat",),
    "champagne.jpg": ("champagne",),
    "snake.png": ("snake",),
}


def draw(folder: Path = FOLDER) -> None:
    """Draws the pictures into a folder."""
    folder.mkdir(exist_ok=True)
    for place, (name, things) in enumerate(PICTURES.items()):
        scene = pictographs.scene(
            Random(f"sample {place}"), training=False, things=tuple(BY_NAME[thing] for thing in things)
        )
        scene.picture.save(folder / name, quality=85)


if __name__ == "__main__":
    typer.run(draw)
