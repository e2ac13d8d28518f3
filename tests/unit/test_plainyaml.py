"""Plain YAML: what a person means is what is read."""

import math

import pytest
import yaml
from chexseg_platform.config import ConfigError
from chexseg_platform.plainyaml import MAX_DEPTH, parse_yaml, yaml_value
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("3E5", 3e5), ("1.", 1.0), (".5", 0.5), ("-1.5e+3", -1500.0),
        ("0", 0), ("-12", -12), ("+3", 3),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        # Words, whatever YAML 1.1 thinks.
        ("no", "no"), ("on", "on"), ("Y", "Y"), ("010", "010"), ("0x1f", "0x1f"),
        ("1_000", "1_000"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), (".inf", ".inf"),
        (".nan", ".nan"), ("=", "="), ("<<", "<<"), ("9" * 5000, "9" * 5000), ("1e", "1e"),
    ],
)  # fmt: skip
def test_scalars(text, value):
    found, _ = parse_yaml(f"key: {text}\n", "f")
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


def test_lines_of_every_key_and_item():
    text = "a: 1\n\nb:\n  c: 2\n  d:\n    - e: 3\n    - f\ng: {h: 4}\n"
    value, lines = parse_yaml(text, "f")
    assert value == {"a": 1, "b": {"c": 2, "d": [{"e": 3}, "f"]}, "g": {"h": 4}}
    assert lines == {
        "a": 1, "b": 3, "b.c": 4, "b.d": 5, "b.d.0": 6, "b.d.0.e": 6, "b.d.1": 7, "g": 8, "g.h": 8,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", r"f:3: a is given twice \(first on 1\)"),
        ("a:\n  b: 1\n  b: 2", r"f:3: a\.b is given twice"),
        ("a: &x 1\nb: *x", "f:2: aliases are not allowed"),
        ("a: !!python/object/apply:os.system [ls]", "f:1: tags are not allowed .*os.system"),
        ("a: 1\nb: !!timestamp nonsense", "f:2: tags are not allowed"),
        ("a: !!int x", "f:1: tags are not allowed"),
        ("a: !local x", "f:1: tags are not allowed"),
        ("a: ! x", "f:1: tags are not allowed"),
        ("{[1, 2]: 3}", "f:1: a key must be a word"),
        ("{{a: 1}: 3}", "f:1: a key must be a word"),
        ("a: 1\n---\nb: 2", "f:2: .*another document"),
        ("a: [1, 2", "f:1: .*expected ',' or ']'"),
        ("a: b: c", "f:1: mapping values are not allowed here"),
        ("a: 1\n\tb: 2", "f:2: .*cannot start any token"),
        ("a: \x00", "f: this is not YAML"),
        ("[" * 10_000, f"f:1: nested deeper than {MAX_DEPTH} levels"),
        ("a: " + "{a: " * 40 + "}" * 40, "nested deeper"),
        ("- " * 10_000, "nested deeper"),
    ],
)
def test_what_is_refused_names_the_line(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_yaml(text, "f")


def test_nesting_up_to_the_limit_is_read():
    value, _ = parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "f")
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == []


@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**15), 10**15), st.text(),
        st.floats(allow_nan=False, allow_infinity=False), st.lists(st.text(max_size=5)),
        st.sampled_from(["no", "1e5", "1e-4", "~", "null", "true", "12", "<<", "..."]),
    )
)  # fmt: skip
def test_a_value_is_written_as_it_is_read(value):
    text = yaml_value(value)
    assert "\n" not in text
    found, _ = parse_yaml(f"key: {text}", "f")
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


def test_values_as_people_write_them():
    shown = [yaml_value(v) for v in (None, 1e-05, "no", "a b", [1, 2], {}, "", True)]
    assert shown == ["null", "1.0e-05", "no", "a b", "[1, 2]", "{}", "''", "true"]
    assert math.isclose(yaml.safe_load(yaml_value(1e-5)), 1e-5)
