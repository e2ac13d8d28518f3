"""YAML without its surprises, for files that people write by hand.

`no` is false, `1e-4` is text, a key given twice wins silently, aliases grow without bound, a tag
builds objects: this reader takes only the plain part of YAML, and says on which line each key was.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from chexseg_platform.config import ConfigError

MAX_DEPTH = 32

_PLAIN = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|false|True|False", list("tTfF")),
    ("int", r"[-+]?(0|[1-9]\d{0,17})", list("-+0123456789")),
    ("float", r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?", list("-+.0123456789")),
)
"""What is not text: kind, pattern, first characters."""


class _Loader(yaml.SafeLoader):
    """No aliases, tags or deep nesting; 1e-4 is a number; no, 010 and 1_0 are words."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _marked("aliases are not allowed", event)
        if getattr(event, "tag", None) is not None:
            raise _marked(f"tags are not allowed ({event.tag})", event)
        if self.depth > MAX_DEPTH:
            raise _marked(f"nested deeper than {MAX_DEPTH} levels", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back."""


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    # In quotes of this kind alone a line break is written with a backslash.
    style = None if value.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


_Dumper.add_representer(str, _text)
for _side in (_Loader, _Dumper):
    _side.yaml_implicit_resolvers = {}
    for _kind, _pattern, _first in _PLAIN:
        _side.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})\Z"), _first
        )


def _marked(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def parse_yaml(text: str, where: str) -> tuple[Any, dict[str, int]]:
    """Return the plain value of a YAML text and the line of every dotted key.

    Raises:
        ConfigError: for text that is no YAML, or uses aliases, tags, or a key twice.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines: dict[str, int] = {}
        _index(node, "", lines, where)
        return (None if node is None else loader.construct_document(node)), lines
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{where}{line}: {problem or 'this is not YAML'}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: this is not YAML ({error})") from None
    finally:
        if loader is not None:
            loader.dispose()


def _index(node: yaml.Node | None, prefix: str, lines: dict[str, int], where: str) -> None:
    """Note the line of every key, which is taken as text; a key given twice is an error."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{where}:{line}: a key must be a word")
            key_node.tag = "tag:yaml.org,2002:str"  # a field's name, also where it is 1 or null
            key = f"{prefix}{key_node.value}"
            if key in lines:
                raise ConfigError(f"{where}:{line}: {key} is given twice (first on {lines[key]})")
            lines[key] = line
            _index(value, f"{key}.", lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[f"{prefix}{number}"] = item.start_mark.line + 1
            _index(item, f"{prefix}{number}.", lines, where)


def yaml_value(value: Any) -> str:
    """Return a leaf value as it would be written in an experiment file, on one line."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=10**9, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()
