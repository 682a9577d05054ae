"""What the families' config.json files have in common: numbers within bounds, and the keys of rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import BaseModel, Field, model_validator

# The bounds lie far beyond any published checkpoint. Within them torch can give every tensor a shape, and a config that
# does not fit its files is refused in seconds.
Count: TypeAlias = Annotated[int, Field(gt=0, le=1 << 20)]
Layers: TypeAlias = Annotated[int, Field(gt=0, le=512)]
Side: TypeAlias = Annotated[int, Field(gt=0, le=1 << 13)]  # in pixels
Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Epsilon: TypeAlias = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]  # of a norm
Theta: TypeAlias = Annotated[float, Field(ge=1, le=1e12, allow_inf_nan=False)]  # base of rotary angles


class RotaryConfig(BaseModel):
    """The keys of plain rotary positions. partial_rotary_factor: the part of a head that is rotated.

    transformers 5 writes them as one object, `rope_parameters`, and leaves the keys beside it out.
    """

    rope_theta: Theta = 10_000.0
    rope_scaling: None = None
    partial_rotary_factor: Share = 1.0

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, read: object) -> object:
        if not isinstance(read, Mapping) or (nested := read.get("rope_parameters")) is None:
            return read
        if not isinstance(nested, Mapping):
            raise ValueError(f"rope_parameters is {nested!r}, not an object")  # noqa: TRY004 - pydantic's
        kind = nested.get("rope_type", "default")
        if kind != "default":
            raise ValueError(f"rope_parameters.rope_type is {kind!r}; only 'default' is supported")
        keys = {name: value for name, value in nested.items() if name != "rope_type"}
        for name, value in keys.items():
            if name not in RotaryConfig.model_fields:
                raise ValueError(f"rope_parameters.{name} is not supported")
            if name in read and read[name] != value:
                raise ValueError(f"rope_parameters.{name} is {value!r}, and {name} is {read[name]!r}; remove one")
        return {**read, **keys}


def whole_heads(hidden_size: int, heads: int) -> None:
    """Raises ValueError, which pydantic reports as the config's fault, unless the heads share out hidden_size."""
    if hidden_size % heads:
        raise ValueError(f"{heads} heads do not divide hidden_size {hidden_size}")


def whole_groups(heads: int, kv_heads: int) -> None:
    """Raises ValueError unless as many heads share each key head."""
    if heads % kv_heads:
        raise ValueError(f"num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}")
