"""Settings of the worker: images of a post, batches, limits, deadlines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from moderation.settings.kinds import (
    Bytes,
    BytesOrZero,
    Count,
    CountOrZero,
    Group,
    Names,
    Paths,
    Pixels,
    Posts,
    Seconds,
    SecondsOrZero,
    advanced,
    basic,
)
from moderation.settings.stores import StoreSettings

StoreName = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]*$")]


class MediaSettings(Group):
    """Media: limits of a post's text and images."""

    max_side: ClassVar[int] = 20_000  # pixels; an image with a longer side is refused
    max_aspect: ClassVar[float] = 100.0  # longest side over shortest; a thinner image gets a margin
    max_thinness: ClassVar[float] = 5_000.0  # the same; a thinner image is not judged: no model would see a trace of it

    roots: Paths = basic((), "folders that file:// references may point into, separated by ':'")
    stores: dict[StoreName, StoreSettings] = Field({}, description="object stores of references, by name")
    https_hosts: Names = advanced(
        (),
        "hosts that https:// references may name, separated by ','; *.example.com stands for all names below "
        "example.com. Without hosts, nothing is fetched over the web",
    )
    https_ca_file: Path | None = advanced(
        None, "certificates (PEM) of authorities that servers of https_hosts may have, in addition to the system's"
    )
    https_timeout_s: Seconds = advanced(
        10.0, "an https:// reference that takes longer is not judged: lookup, redirects and transfer together"
    )
    max_text_chars: Count = advanced(
        1_000_000,
        "longest text of a post that is kept in memory, which is more than max_windows hold; of a longer one, the "
        "beginning and the end are kept",
        unit="characters",
    )
    max_images: CountOrZero = advanced(8, "images of a post that are judged: the first ones", unit="images")
    max_bytes: Bytes = advanced(16 << 20, "largest image file")
    max_pixels: Pixels = advanced(40_000_000, "largest image, as width times height")
    max_post_pixels: Pixels = advanced(100_000_000, "largest sum over the pictures of a post that are judged")
    max_decoded_bytes: Bytes = advanced(2 << 30, "memory to decode, and for decoded pictures; a larger post is alone")
    max_frames: Count = advanced(
        8, "frames of an animation that are judged: the first, those shown long, those unlike the others", unit="frames"
    )
    posts_at_once: Posts = advanced(4, "posts whose images are decoded at the same time, each by a process of its own")
    timeout_s: Seconds = advanced(60.0, "images of a post that take longer to read are not judged")


class WorkerSettings(Group):
    """Worker: batches, limits, deadlines."""

    batch_tokens: Count = advanced(8192, "token budget of a batch, image encoding included", unit="tokens")
    overtake_s: SecondsOrZero = advanced(
        10.0, "batches are filled oldest first; of a post's wait in Kafka, at most this time counts towards its age"
    )
    max_in_flight: Posts = advanced(256, "posts in progress in this process; at most half of them of one partition")
    max_in_flight_bytes: Bytes = advanced(
        256 << 20, "polling stops at this size of the records in progress; a single larger record is still processed"
    )
    verdict_cache_posts: CountOrZero = advanced(10_000, "verdicts that each partition caches", unit="posts")
    verdict_cache_bytes: BytesOrZero = advanced(16 << 20, "memory for the cached verdicts of each partition")
    encode_threads: Count = advanced(
        max(1, (os.cpu_count() or 1) - 1), "threads that encode posts", unit="threads", shown="CPU cores - 1"
    )
    encode_timeout_s: Seconds = advanced(60.0, "a post that takes longer to encode is judged in parts")
    step_timeout_s: Seconds = advanced(300.0, "if a batch takes longer, the device is broken and the worker exits")
    post_timeout_s: Seconds = advanced(
        900.0, "longest time from poll to commit; then the worker exits, and Kafka delivers the post again"
    )
    failed_posts: Posts = advanced(
        5, "if so many posts fail in a row, a post that succeeded is scored again; at 4 times as many, the worker exits"
    )
    failed_post_s: Seconds = advanced(2.0, "a failed post waits this long for a success, then becomes a dead letter")
    self_check_s: SecondsOrZero = advanced(60.0, "time between two self-checks; 0: only after a failed batch")
    drain_timeout_s: Seconds = advanced(60.0, "a stopping worker finishes its posts for at most this long")

    @property
    def max_partition_in_flight(self) -> int:
        """Posts in progress of one partition: half of all, so that one partition leaves room for the others."""
        return max(1, self.max_in_flight // 2)
