"""The experiment file: sections read, overridden by `--set`, and every value with its origin.

Each value knows where it came from (default, file line, override), so errors and `config show`
can say it. All problems of a file are reported at once, each with the nearest valid name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from chexseg_platform.config import SWEPT, ConfigError, Experiment, Section, Segmenter, swept_field
from chexseg_platform.plainyaml import parse_yaml, yaml_value

MAX_BYTES = 1 << 20
START = "segmenter:"
INITIALISATIONS = "finetune.initialisations"


@dataclass(frozen=True)
class Loaded:
    """A checked experiment and where each of its values came from."""

    experiment: Experiment
    path: str
    lines: Mapping[str, int]
    overrides: Mapping[str, Any]

    def origin(self, key: str) -> str:
        """Return "default", "file:LINE" or "--set" for a dotted key."""
        for name in (key, *_parents(key)):
            # A section that is given says nothing of the fields that it leaves out.
            if name != key and _fields_at(name.split(".")) is not None:
                continue
            if name in self.overrides:
                return "--set"
            if name in self.lines:
                return f"{Path(self.path).name}:{self.lines[name]}"
        return "default"


def load(path: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read an experiment file and lay overrides ("segmenter.lr=3e-4") on top.

    Raises:
        ConfigError: naming file, line, field, what was given and the nearest valid name; all
            problems at once.
    """
    path = Path(path)
    value, lines, given = _laid(path, overrides)
    _paths_from(value, path.resolve().parent, given)
    return Loaded(_validate(value, str(path), lines, given), str(path), lines, given)


def relative_paths(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Return the paths that start at the experiment file or, overridden, at this folder, by key."""
    value, _, _ = _laid(Path(path), overrides)
    found = {}
    for key, section, name in _path_fields(value):
        text = section[name].removeprefix(START if _is_start(key) else "")
        if "://" not in text and not os.path.isabs(os.path.expanduser(text)):
            found[key] = text
    return found


def _laid(
    path: Path, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, int], dict[str, Any]]:
    """Return a file's values with the overrides on top, its values' lines, and the overrides."""
    value, lines = parse_yaml(_read(path), str(path))
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is no experiment file: it should start with `name: ...`")
    given: dict[str, Any] = {}
    for override in overrides:
        key, new = _parse_override(override)
        _place(value, key, new)
        given |= {key: new, **dict(flat(new, key))}
        # What the override replaced is no longer what the file says.
        lines = {name: line for name, line in lines.items() if not name.startswith(f"{key}.")}
    return value, lines, given


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(_missing(path)) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8, so no experiment file") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES >> 20} MiB, so no experiment file")
    return text


def _missing(path: Path) -> str:
    there = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    near = get_close_matches(path.name, there, n=1)
    hint = f" Did you mean {path.parent / near[0]}?" if near else f" There: {', '.join(there)}."
    return f"there is no experiment file {path}.{hint if there else ''}"


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--set {text!r}: write it as field=value, e.g. segmenter.lr=3e-4")
    return key, parse_yaml(value, f"--set {key}")[0]


def _place(tree: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at a dotted key, making sections (never list items) on the way."""
    names = key.split(".")
    if names[:2] == ["tune", "space"] and len(names) > 2:
        names = [*names[:2], ".".join(names[2:])]  # a sweep's fields are dotted names themselves
    if len(names) > 1 and names[0] == "arms" and tree.get("arms") is None:
        # One field of one arm is changed: the other arms stay.
        tree["arms"] = Experiment.model_fields["arms"].get_default(call_default_factory=True)
    place: Any = tree
    for depth, name in enumerate(names):
        last = depth == len(names) - 1
        if isinstance(place, list):
            if not name.isdecimal() or int(name) >= len(place):
                size = len(place)
                raise ConfigError(f"--set {key}: {name!r} is no position in a list of {size}")
            slot: Any = int(name)
        elif isinstance(place, dict):
            slot = name
            if not last and place.get(slot) is None:
                place[slot] = {}
        else:
            raise ConfigError(f"--set {key}: {'.'.join(names[:depth])} is no section")
        if last:
            place[slot] = value
        else:
            place = place[slot]


def _paths_from(value: dict[str, Any], folder: Path, given: Mapping[str, Any]) -> None:
    """Make every path absolute: relative ones start at the experiment file.

    Those that an override gives start where the command is given.
    """
    for key, section, name in _path_fields(value):
        overridden = any(k in given for k in (key, *_parents(key)))
        prefix = START if _is_start(key) else ""
        path = section[name].removeprefix(prefix)
        section[name] = prefix + _absolute(path, Path.cwd() if overridden else folder)


def _path_fields(value: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, section, field) of every path that a file gives."""
    for key, section, name in _fields_with_paths(value):
        text = section[name] if isinstance(section, list) else section.get(name)
        if not isinstance(text, str) or text in ("", "imagenet"):
            continue
        if not _is_start(key) or (text.startswith(START) and text != START):
            yield key, section, name


def _fields_with_paths(value: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    tables = _section(value, "data").get("tables")
    for number, table in enumerate(tables if isinstance(tables, list) else []):
        for name in ("table", "root", "labels", "truth", "benchmark", "points"):
            if isinstance(table, dict):
                yield f"data.tables.{number}.{name}", table, name
    yield from _collections("data", _section(value, "data"))
    tasks = _section(_section(value, "finetune"), "tasks")
    for task in tasks:
        yield from _collections(f"finetune.tasks.{task}", _section(tasks, task))
    initialisations = _section(_section(value, "finetune"), "initialisations")
    for name in initialisations:
        yield f"{INITIALISATIONS}.{name}", initialisations, name
    for section in ("pretrain", "finetune"):
        yield f"{section}.segmenter.init", _section(_section(value, section), "segmenter"), "init"
    for key, name in (("classifier", "weights"), ("segmenter", "init"), ("resources", "cache")):
        yield f"{key}.{name}", _section(value, key), name
    arms = _section(value, "arms")
    for arm in arms:
        yield f"arms.{arm}.init", _section(arms, arm), "init"
    space = _section(_section(value, "tune"), "space")
    for key, values in space.items():
        paths = swept_field(key) in ("segmenter.init", "classifier.weights")
        for place in range(len(values) if paths and isinstance(values, list) else 0):
            yield f"tune.space.{key}", values, place


def _collections(place: str, section: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    found = section.get("collections")
    for number, collection in enumerate(found if isinstance(found, list) else []):
        for name in ("root", "masks"):
            if isinstance(collection, dict):
                yield f"{place}.collections.{number}.{name}", collection, name


def _is_start(key: str) -> bool:
    """Whether a field is a word, or `segmenter:` and a path."""
    return key.endswith(".init") or key.startswith(f"{INITIALISATIONS}.")


def _section(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _absolute(text: str, folder: Path) -> str:
    if "://" in text:
        return text
    return os.path.abspath(folder / os.path.expanduser(text))


# -- errors -------------------------------------------------------------------------------------


def _validate(
    value: Any, path: str, lines: Mapping[str, int], given: Mapping[str, Any]
) -> Experiment:
    try:
        return Experiment.model_validate(value)
    except ValidationError as error:
        problems: dict[str, list[Any]] = {}
        for item in error.errors():
            problems.setdefault(_key(item), []).append(item)
    sentences = [
        f"{_where(key, lines, path, given)}{_sentence(key, items)}"
        for key, items in problems.items()
    ]
    raise ConfigError("\n".join(sentences))


def _key(error: Any) -> str:
    """The dotted field of a pydantic error, without the branches of a union it was tried on."""
    parts = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return ".".join(parts)
    return ".".join(p for p in parts if not re.match(r"literal\[|constrained-|(int|float)$", p))


def _sentence(key: str, errors: Sequence[Any]) -> str:
    """One line for one field: what was given and what would do."""
    kind, got = errors[0]["type"], errors[0].get("input")
    if kind == "extra_forbidden":
        return f"{key}: there is no such field.{_did_you_mean(key.split('.'))}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        said = str(errors[0]["ctx"]["error"])
        return f"{key}: {said}" if key else said  # of the file as a whole
    if kind == "too_short":
        return f"{key}: it is empty; give at least {errors[0]['ctx']['min_length']}"
    shown = "a section" if isinstance(got, dict) else yaml_value(got)
    shown = repr(got) if isinstance(got, str) else shown
    wishes = dict.fromkeys(_wish(error) for error in errors)
    return f"{key}: {shown} will not do: it should be {' or '.join(wishes)}"


def _wish(error: Any) -> str:
    if error["type"] in ("model_type", "dict_type"):
        return "a section"
    return str(error["msg"]).removeprefix("Input should be ")


def _where(key: str, lines: Mapping[str, int], path: str, given: Mapping[str, Any]) -> str:
    if key not in lines and any(name.startswith(f"{key}.") for name in given):
        return "--set "  # a section that only an override made
    for name in (key, *_parents(key)):
        if name in given:
            return "--set "
        if name in lines:
            return f"{path}:{lines[name]}: "
    return f"{path}: "


def _parents(key: str) -> Iterator[str]:
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


def _did_you_mean(names: Sequence[str]) -> str:
    """Name the nearest field of the same section, or of any other section."""
    *sections, name = names
    here = list(_fields_at(sections) or {})
    near = get_close_matches(name, here, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {'.'.join([*sections, near[0]])}?"
    elsewhere: dict[str, list[str]] = {}
    for key in dotted():
        elsewhere.setdefault(key.rpartition(".")[2], []).append(key)
    near = get_close_matches(name, elsewhere, n=1, cutoff=0.8)
    if near:
        return f" Did you mean {' or '.join(elsewhere[near[0]])}?"
    return f" There: {', '.join(here)}." if here else ""


# -- the tree of fields -------------------------------------------------------------------------


def _fields_at(names: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the fields of the section at a place in the file; None if it is no section."""
    if names and names[0] == "arms" and len(names) >= 2:
        return _fields_below(Segmenter, names[2:])
    if list(names[:2]) == ["tune", "space"]:
        return _fields_of_space(names[2:])
    return _fields_below(Experiment, names)


def _fields_of_space(names: Sequence[str]) -> Mapping[str, Any] | None:
    """Return what a sweep's keys can be: bare fields of the segmenter, or dotted ones."""
    if not names:
        return {**Segmenter.model_fields, **{name: Experiment.model_fields[name] for name in SWEPT}}
    dotted = names[0] in Experiment.model_fields
    return _fields_below(Experiment if dotted else Segmenter, names)


def _fields_below(model: type[BaseModel], names: Sequence[str]) -> Mapping[str, Any] | None:
    for name in names:
        if name.isdecimal():  # a place in a list of sections
            continue
        info = model.model_fields.get(name)
        section = _section_type(info.annotation) if info else None
        if section is None:
            return None
        model = section
    return model.model_fields


def _section_type(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_type(argument)
        if found:
            return found
    return None


def dotted(model: type[BaseModel] = Experiment, prefix: str = "") -> Iterator[str]:
    """Yield every dotted field name of a section and its sub-sections."""
    for name, info in model.model_fields.items():
        section = _section_type(info.annotation)
        yield f"{prefix}{name}"
        if section is not None:
            yield from dotted(section, f"{prefix}{name}.")


# -- showing ------------------------------------------------------------------------------------


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every leaf of a plain nested value."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from flat(item, f"{prefix}.{number}")
    else:
        yield prefix, value


def show(loaded: Loaded) -> str:
    """Return every resolved setting with its origin, one a line, as `config show` prints them."""
    rows = [
        (key, yaml_value(value), loaded.origin(key))
        for key, value in flat(loaded.experiment.model_dump())
    ]
    wide = max(len(key) for key, _, _ in rows)
    mid = min(44, max(len(value) for _, value, _ in rows))
    return "\n".join(f"{key:<{wide}}  {value:<{mid}}  {origin}" for key, value, origin in rows)
