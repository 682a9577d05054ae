"""TinyGPT-V. Its published files are four downloads; `moderation model convert tinygptv` makes one folder of them."""

from moderation.models.contract import Published

_VERIFIED = (
    "the conversion, ids, pixels, tower, Q-Former, image tokens and logits against the original code, on seeded files "
    "in the published layout"
)
_UNVERIFIED = (
    "the published files and their accuracy; how their adapters are spelt, whether stage 4 has a Q-Former, which "
    "template its scores were measured with; bfloat16 on a GPU; the licences of the other three downloads"
)

PUBLISHED = tuple(
    Published(
        name=name,
        parameters=parameters,
        weight_bytes=weight_bytes,  # of the converted folder
        # Of the stage files, as Tyrannosaurus/TinyGPT-V on the hub. Its Phi-2 was susnato/phi-2 there: first under
        # Microsoft's research licence (062c0ae), later under MIT.
        licence="BSD-3-Clause",
        memory_bytes=memory_bytes,
        context=2048,
        image_tokens=32,
        verified=_VERIFIED,
        unverified=_UNVERIFIED,
    )
    for name, parameters, weight_bytes, memory_bytes in (
        ("TinyGPT-V, stages 1 to 3 (224 x 224)", 3_884_473_728, 9_684_628_736, 8_273_000_000),
        ("TinyGPT-V, stage 4 (448 x 448)", 3_885_555_072, 9_689_677_824, 8_276_000_000),
    )
)
