"""Settings of the command line, ``--set KEY=VALUE``: any key of a suite, typed by the suite's schema. Free of torch."""

import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gmje_bench.errors import OptionError, did_you_mean
from gmje_bench.methods import check_methods

if TYPE_CHECKING:
    from gmje_bench.suites import Suite

__all__ = ["parse_setting", "with_overrides"]

EXAMPLE = "--set takes KEY=VALUE, such as training.learning_rate=0.3"


def parse_setting(text: str) -> tuple[str, Any]:
    """The key and the value of ``KEY=VALUE``.

    The value is TOML; what is not, such as a name without quotation marks, is a text, and ``none`` is no value.

    Args:
        text: What stands behind ``--set``.

    Raises:
        OptionError: there is no ``=``, or no key before it.

    Examples:
        >>> parse_setting("training.learning_rate=3e-1"), parse_setting("seeds=[0, 1]")
        (('training.learning_rate', 0.3), ('seeds', [0, 1]))
        >>> parse_setting("network.backbone=resnet50"), parse_setting("limit=none")
        (('network.backbone', 'resnet50'), ('limit', None))
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise OptionError(f"{EXAMPLE}; got {text!r}")
    if value == "none":
        return key, None
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return key, value
    # A value with a line break could hold keys of its own.
    return key, parsed["value"] if len(parsed) == 1 else value


def with_overrides(suite: "Suite", texts: Sequence[str]) -> "Suite":
    """A validated copy of a suite with settings changed.

    Args:
        suite: The suite, with the other options of the command line applied.
        texts: What stands behind every ``--set``; of a key that is given twice, the last value counts.

    Raises:
        OptionError: a key is unknown or means nothing in this suite, or a value is of the wrong type or out of range.

    Examples:
        >>> from gmje_bench.suites import load_suite
        >>> changed = with_overrides(load_suite("vision"), ["training.learning_rate=0.3", "method.gmje.components=64"])
        >>> changed.training.learning_rate, changed.method["gmje"]["components"]
        (0.3, 64)
        >>> with_overrides(load_suite("vision"), ["training.learning_rat=0.3"])
        Traceback (most recent call last):
        ...
        gmje_bench.errors.OptionError: --set training.learning_rat: unknown key; did you mean training.learning_rate...
    """
    from gmje_bench.suites import validated

    if not texts:
        return suite
    values = suite.model_dump()
    named = {}
    for key, value in map(parse_setting, texts):
        section, last = _place(suite, values, key)
        section[last] = value
        named[key] = value
    changed = validated(values, "settings")
    for key in named:
        _, *method = key.split(".")[:2] if key.startswith("method.") else [key]
        if method and method[0] not in changed.methods:
            raise OptionError(
                f"--set {key}: method {method[0]} is not in this run, which has {', '.join(changed.methods)}"
            )
    return changed


def _place(suite: "Suite", values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The table that a key belongs to, and the last part of the key."""
    from gmje_bench.suites import SECTIONS, Suite

    top = [name for name in Suite.model_fields if name not in SECTIONS and name != "method"]
    first, *rest = key.split(".")
    if suite.dataset is None and first not in ("summary", "seeds", "synthetic"):
        raise OptionError(f"--set {key} means nothing where all tasks are synthetic")
    if first == "method" and len(rest) == 2 and all(rest):
        check_methods(rest[:1])
        return values["method"].setdefault(rest[0], {}), rest[1]
    if first in SECTIONS and len(rest) == 1:
        if values[first] is None:
            raise OptionError(f"--set {key} means nothing in a suite without a [{first}] section")
        if rest[0] in SECTIONS[first].model_fields:
            return values[first], rest[0]
        raise OptionError(f"--set {key}: unknown key{_closest(key, first, SECTIONS[first].model_fields)}")
    if not rest and first in top:
        return values, first
    if not rest and (section := next((s for s, model in SECTIONS.items() if first in model.model_fields), None)):
        raise OptionError(f"--set {key}: unknown key; did you mean {section}.{first}?")
    raise OptionError(f"--set {key}: unknown key{did_you_mean(first, [*top, *SECTIONS, 'method.NAME.KEY'])}")


def _closest(key: str, section: str, fields: Any) -> str:
    return did_you_mean(key, [f"{section}.{field}" for field in fields])
