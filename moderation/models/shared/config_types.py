"""What the config.json of several families have in common."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, PositiveFloat, model_validator


class RotaryConfig(BaseModel):
    """The keys of plain rotary positions. partial_rotary_factor: the part of a head that is rotated.

    transformers 5 writes them as one object, `rope_parameters`, and leaves the keys beside it out.
    """

    rope_theta: PositiveFloat = 10_000.0
    rope_scaling: None = None
    partial_rotary_factor: PositiveFloat = 1.0

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
