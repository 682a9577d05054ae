"""TinyLLaVA: Phi-2 with SigLIP in two layouts, and TinyLlama with CLIP in a third."""

from moderation.models.contract import Published

PARITY = (
    "input ids, pixels, features and logits of the original code on small seeded checkpoints in this layout; tensor "
    "names and sizes"
)
UNSEEN = "the published weights and their accuracy; their dtype, taken from the files' sizes; bfloat16 on a GPU"

# Sizes as huggingface.co/NAME/tree/REVISION shows them: 5 and 1.44 GB (2d2143b); 4.98, 4.98 and 2.78 GB (b0ade9c);
# 4.98 GB and 661 MB (33fb826). So a number has two bytes in the first, and four in the others.
PUBLISHED = (
    Published(
        name="tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B",
        parameters=3_217_417_280,
        weight_bytes=6_434_834_560,
        licence="Apache-2.0",
        memory_bytes=6_880_000_000,
        context=3072,
        image_tokens=728,
        verified=PARITY,
        unverified=UNSEEN,
    ),
    Published(
        name="bczhou/TinyLLaVA-3.1B",
        parameters=3_186_888_224,
        weight_bytes=12_747_552_896,
        licence="Apache-2.0",  # its separate vision tower: MIT
        memory_bytes=6_880_000_000,
        context=3072,
        image_tokens=729,
        verified=PARITY,
        unverified=f"{UNSEEN}; that the vision tower in them equals the separate one, which the original loads",
    ),
    Published(
        name="bczhou/tiny-llava-v1-hf",
        parameters=1_410_113_536,
        weight_bytes=5_640_454_144,
        licence="Apache-2.0",
        memory_bytes=3_240_000_000,
        context=2048,
        image_tokens=576,
        verified=PARITY,
        unverified=UNSEEN,
    ),
)
