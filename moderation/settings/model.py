"""Settings of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import SecretStr, model_validator

from moderation.settings.kinds import (
    BytesOrZero,
    Count,
    CountOrZero,
    Group,
    Money,
    Name,
    Price,
    Seconds,
    advanced,
    basic,
)


class ModelSettings(Group):
    """Model: the checkpoint and how it runs, or the server that runs it."""

    name: Name = basic(
        "microsoft/Phi-3-vision-128k-instruct",
        "hub id, folder, 'demo' or 'fake'; or of a model server openai:MODEL, decisions:MODEL or systemone:MODEL; "
        "MODERATION_MODEL sets it too",
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
    max_windows: Count = advanced(
        16,
        "windows of a post that are judged; of a longer text, some that are spread evenly over it. As many again of "
        "the text as its readers see it, where that differs",
        unit="windows",
    )

    url: str = basic(
        "", "base URL of the model server, such as https://api.openai.com/v1; systemone also takes its whole endpoint"
    )
    api_key_file: Path | None = basic(None, "file with the key of the model server; read again for each request")
    api_key: SecretStr = advanced(SecretStr(""), "key of the model server; prefer api_key_file")
    concurrency: Count = advanced(16, "requests to the model server at once", unit="requests")
    request_timeout_s: Seconds = advanced(60.0, "longest time of one attempt at a request to the model server")
    outage_s: Seconds = advanced(
        900.0, "while the model server is away, partitions are paused for this long; then each policy's on_error counts"
    )
    budget_per_hour: Money = advanced(
        0.0, "what this worker may spend in an hour; then it pauses as in an outage; 0: no limit; needs the prices"
    )
    input_price: Price = advanced(0.0, "price of the model server's input")
    cached_price: Price | None = advanced(None, "price of input that the model server had cached; default: input_price")
    output_price: Price = advanced(0.0, "price of the model server's output")
    alias_may_remove: bool = advanced(
        False, "whether REMOVE is possible when the server reports another model name than the one asked for"
    )
    image_dialect: Literal["assets", "images", "state"] = advanced(
        "assets", "where systemone requests carry pictures; images: SGLang and Clef, state: OpenRouter"
    )

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.window_overlap * 2 > self.window_tokens:
            raise ValueError("window_overlap must be at most half of window_tokens")
        if self.budget_per_hour and not (self.input_price or self.output_price):
            raise ValueError("budget_per_hour needs input_price and output_price")
        return self
