"""H2OVL-Mississippi."""

from moderation.models.contract import Published

_VERIFIED = "ids, pixels and logits against the original code, on seeded checkpoints in the published layout"
_UNVERIFIED = "the published weights; bfloat16 on a GPU"

PUBLISHED = (
    Published(
        name="h2oai/h2ovl-mississippi-800m",
        parameters=826_295_808,
        weight_bytes=1_652_591_616,
        licence="Apache-2.0",
        memory_bytes=1_990_000_000,
        context=8192,
        image_tokens=1794,
        verified=_VERIFIED,
        unverified=_UNVERIFIED,
    ),
    Published(
        name="h2oai/h2ovl-mississippi-2b",
        parameters=2_152_317_440,
        weight_bytes=4_304_634_880,
        licence="Apache-2.0",
        memory_bytes=4_870_000_000,
        context=8192,
        image_tokens=3330,
        verified=_VERIFIED,
        unverified=f"{_UNVERIFIED}; the tail of its config.json and its own code, taken as the 800m's",
    ),
)
