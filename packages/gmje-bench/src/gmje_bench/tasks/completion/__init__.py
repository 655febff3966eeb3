"""Completing pictures: several answers for the part that the context does not show, decoded and measured."""

from gmje_bench.tasks.completion.task import completion

__all__ = ["completion"]
