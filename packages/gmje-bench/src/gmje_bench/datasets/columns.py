"""Which columns of a table hold images and labels, and what kinds of columns those may be."""

from collections.abc import Sequence
from typing import Any

from gmje_bench.errors import DatasetError, did_you_mean

__all__ = ["IMAGE_COLUMNS", "LABEL_COLUMNS", "check_labels", "holds_bytes", "pick_column", "reason"]

#: Names of the column of images, the usual ones first; those of endings are what tar files become.
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")


def pick_column(name: str, columns: Sequence[str], wanted: Sequence[str]) -> str:
    """The first of the wanted columns that there is.

    Raises:
        DatasetError: there is none; the message has the closest one.

    Examples:
        >>> pick_column("cats", ["id", "img", "label"], IMAGE_COLUMNS)
        'img'
    """
    for column in wanted:
        if column in columns:
            return column
    raise DatasetError(f"{name} has no column {wanted[0]!r}{did_you_mean(wanted[0], columns)}")


def holds_bytes(name: str, column: str, kind: Any) -> bool:
    """Whether an Arrow column has the encoded images in a field ``bytes``; else they are the cells themselves.

    Args:
        name: The name of the dataset, for the message.
        column: The name of the column.
        kind: Its Arrow type.

    Raises:
        DatasetError: it does not hold encoded images.
    """
    import pyarrow.types as types

    nested = types.is_struct(kind) and "bytes" in [field.name for field in kind]
    if not (nested or types.is_binary(kind) or types.is_large_binary(kind)):
        raise DatasetError(f"column {column!r} of {name} holds {kind}, not encoded images")
    return nested


def check_labels(name: str, column: str, values: Sequence[Any], kind: Any) -> None:
    """Check that every label is a number or a name.

    Args:
        name: The name of the dataset, for the message.
        column: The name of the column.
        values: Its cells.
        kind: What it holds, for the message.

    Raises:
        DatasetError: a cell is empty or of another type.
    """
    if any(isinstance(value, bool) or not isinstance(value, int | str) for value in values):
        raise DatasetError(f"column {column!r} of {name} must hold class numbers or names in every row, not {kind}")


def reason(error: BaseException) -> str:
    """The first line of the innermost cause of an error of a foreign reader."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
