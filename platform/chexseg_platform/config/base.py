"""What every section of an experiment file shares: types, strictness, and checks of overrides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Split = Literal["train", "valid", "test"]
View = Literal["frontal", "lateral"]

ARM_NAME = r"[A-Za-z0-9][A-Za-z0-9._ -]{0,47}"


class ConfigError(ValueError):
    """The experiment file or an override is wrong; the message names field, place and remedy."""


def check_name(name: str) -> None:
    if not re.fullmatch(ARM_NAME, name):
        raise ValueError(f"{name!r} will not do as a name: use letters, digits, spaces and . _ -")


def each_once(what: str) -> AfterValidator:
    """Check that a list, of which each item is a training, names none twice."""

    def check(items: list[Any]) -> list[Any]:
        if len(set(items)) != len(items):
            raise ValueError(f"the same {what} twice would count one training as two")
        return items

    return AfterValidator(check)


Seeds = Annotated[list[Seed], Field(min_length=1), each_once("seed")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Variant = tuple[tuple[str, ...], type[Section], Mapping[str, Any]]


def check_variants(variants: Iterable[Variant]) -> None:
    """Check (place, section, fields that override it); report every problem in its place."""
    problems: list[InitErrorDetails] = []
    for place, section, fields in variants:
        if "expert_validation" in fields:
            wrong = ValueError("set it in segmenter: all trainings share the held patients")
            problems.append(
                _problem("value_error", (*place, "expert_validation"), {"error": wrong})
            )
        try:
            section.model_validate(fields)
        except ValidationError as error:
            problems += [
                _problem(item["type"], (*place, *item["loc"]), item.get("ctx"), item["input"])
                for item in error.errors()
            ]
    if problems:
        raise ValidationError.from_exception_data("segmenter", problems)


def _problem(kind: str, place: tuple[str | int, ...], context: Any, given: Any = None) -> Any:
    return InitErrorDetails(type=kind, loc=place, input=given, ctx=context or {})
