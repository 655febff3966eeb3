"""The benchmark harness: suites, datasets, methods, tasks and reports around ``gmje_core``."""

__version__ = "0.1.0"
