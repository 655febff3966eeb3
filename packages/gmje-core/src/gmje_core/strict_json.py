"""A strict JSON form of dataclasses: no unknown, repeated or missing key, and no number that JSON does not have."""

import json
import types
import typing
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from gmje_core.errors import ConfigError, unknown_name

__all__ = ["StrictForm"]


@dataclass(frozen=True)
class StrictForm:
    """A frozen dataclass that is written as a JSON object and is read back only where every key is right.

    Attributes:
        what: Name of the form, for messages.
    """

    what: ClassVar[str]

    def check_types(self) -> None:
        """Check that each field holds just a type that it declares: an ``int`` is no ``float``, a ``bool`` no ``int``.

        What dictionaries and tuples hold is not checked here.

        Raises:
            ConfigError: a value of another type; the text names the field.
        """
        for spec in fields(self):
            value = getattr(self, spec.name)
            declared = typing.get_args(spec.type) if isinstance(spec.type, types.UnionType) else (spec.type,)
            kinds = [typing.get_origin(kind) or kind for kind in declared]
            if type(value) not in kinds:
                names = " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in kinds)
                raise ConfigError(f"{spec.name} must be of type {names}, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data that :meth:`from_dict` takes back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def to_json(self) -> str:
        """JSON text, with sorted keys and a final newline."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The form that :meth:`to_dict` described.

        Raises:
            ConfigError: a key is unknown or missing, or a value is out of range. Nothing is guessed.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{cls.what} must be a JSON object, got {type(values).__name__}")
        names = [spec.name for spec in fields(cls)]
        for key in values:
            if key not in names:
                raise ConfigError(unknown_name("key", key, names))
        missing = [name for name in names if name not in values]
        if missing:
            raise ConfigError(f"missing keys: {', '.join(missing)}")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The form that :meth:`to_json` described.

        Raises:
            ConfigError: the text is not JSON; or see :meth:`from_dict`.
        """

        def refuse_constant(name: str) -> float:
            raise ConfigError(f"{cls.what} holds {name}, which is not a JSON number")

        def refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            values = dict(pairs)
            if len(values) < len(pairs):
                keys = [key for key, _ in pairs]
                repeated = sorted({key for key in keys if keys.count(key) > 1})
                raise ConfigError(f"{cls.what} holds a key more than once: {', '.join(repeated)}")
            return values

        try:
            values = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_repeats)
        except ConfigError:
            raise
        except (ValueError, RecursionError) as error:  # also an integer of more digits than Python reads
            raise ConfigError(f"{cls.what} is not valid JSON: {error}") from error
        return cls.from_dict(values)
