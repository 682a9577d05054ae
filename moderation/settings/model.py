"""Settings of the model."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from moderation.settings.kinds import BytesOrZero, Count, CountOrZero, Group, Name, advanced, basic


class ModelSettings(Group):
    """Model: the checkpoint, and how it runs."""

    name: Name = basic(
        "microsoft/Phi-3-vision-128k-instruct", "hub id, folder, 'demo' or 'fake'; MODERATION_MODEL sets it too"
    )
    revision: str | None = basic(None, "commit or tag of the hub id; pin it in production")
    digest: str = advanced(
        "", "digest of the checkpoint (`moderation model info`); empty: any", pattern="^([0-9a-f]{64})?$"
    )
    device: Literal["auto", "cpu", "cuda"] = advanced("auto", "auto: CUDA if there is a GPU")
    dtype: Literal["auto", "float32", "bfloat16"] = advanced(
        "auto", "auto: bfloat16 on CUDA, float32 on a CPU; bfloat16 is faster on a CPU with AMX"
    )
    compile: bool = advanced(False, "whether torch compiles the decoder; a start then takes minutes longer")
    fp8: bool = advanced(False, "whether the decoder runs in 8 bits (GPU only); the log says how far scores move")
    num_crops: int | None = advanced(None, "crops or tiles of an image; default: its own", unit="crops", ge=1, le=64)
    feature_cache_bytes: BytesOrZero = advanced(256 << 20, "device memory for features of known pictures; 0: no cache")
    window_tokens: int = advanced(2048, "a longer text is scored in windows of this size", unit="tokens", ge=64)
    window_overlap: CountOrZero = advanced(256, "overlap of two neighbouring windows", unit="tokens")
    max_windows: Count = advanced(16, "a post that needs more windows is refused", unit="windows")

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.window_overlap * 2 > self.window_tokens:
            raise ValueError("window_overlap must be at most half of window_tokens")
        return self
