"""What all settings have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

WRONG_KIND: Final = "wrong_kind"
"""Type of the error of a block whose ``kind`` says which settings it has, and is none of these."""


def _without_truth(value: Any) -> Any:
    """A value in which nothing is true or false; pydantic would take that for 1 and 0."""
    if _holds_truth(value):
        raise ValueError(
            f"got {value!r}, expected no truth value; YAML reads yes, no, on and off as such, "
            "so put quotes around them if they are names"
        )
    return value


def _holds_truth(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_truth, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_truth, value))
    return isinstance(value, bool)


Positive = Annotated[float, Field(gt=0)]
"""A number above zero, as a value in a mapping."""

Weight = Annotated[float, Field(ge=0), BeforeValidator(_without_truth)]
"""A number that is not negative, as a value in a mapping."""


class Settings(BaseModel):
    """A block of settings: it never changes, knows all its keys, and holds finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        return value if _takes_truth(field.annotation) else _without_truth(value)


Block = TypeVar("Block", bound=Settings)


def laid_over(block: Block, own: Block) -> Block:
    """A block of settings with those that were given in another one in their place.

    Raises:
        ValidationError: If they do not go together.
    """
    given = own.model_dump(exclude_unset=True)
    return type(block).model_validate(_merged(_of_same_kind(block, own), given))


def without_nulls(block: Any) -> Any:
    """A mapping less the keys whose value is null: files that lie over others can only add keys."""
    if not isinstance(block, Mapping):
        return block
    return {key: value for key, value in block.items() if value is not None}


def _of_same_kind(block: Settings, own: Settings) -> dict[str, Any]:
    """Values of a block, without those that are unknown to the kind that the other one names."""
    inner = {
        name: _of_same_kind(below, above)
        for name, above in own
        if isinstance(above, Settings) and isinstance(below := getattr(block, name, None), Settings)
    }
    known = type(own if "kind" in own.model_fields_set else block).model_fields
    values = {**block.model_dump(), **inner}
    return {name: value for name, value in values.items() if name in known}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping laid over another, block by block."""
    inner = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
    }
    return {**below, **above, **inner}


def _takes_truth(annotation: Any) -> bool:
    """Whether truth values belong to a type, or a block of settings that looks by itself."""
    is_block = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation in (bool, Any) or is_block or any(map(_takes_truth, get_args(annotation)))
