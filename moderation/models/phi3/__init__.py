"""Phi-3-Vision."""

from moderation.models.contract import Published

_VERIFIED = "ids, pixels and logits against the original code, on seeded checkpoints in the published layout"
_UNVERIFIED = "the published weights and their accuracy; bfloat16 on a GPU"

PUBLISHED = tuple(
    Published(
        name=name,
        parameters=4_146_621_440,
        weight_bytes=8_293_242_880,
        licence="MIT",
        memory_bytes=memory,
        context=131_072,
        image_tokens=tokens,
        verified=_VERIFIED,
        unverified=_UNVERIFIED,
    )
    for name, memory, tokens in (
        ("microsoft/Phi-3-vision-128k-instruct", 8_990_000_000, 1921),
        ("microsoft/Phi-3.5-vision-instruct", 8_980_000_000, 757),
    )
)
