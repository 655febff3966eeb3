"""Two views of every image, made in batches on the device, with parameters drawn for the global batch.

The random parameters of a batch are a pure function of ``(seed, epoch, step, view)``, drawn on the CPU for all
processes together and then sliced: results depend neither on the number of workers nor on that of processes.
"""

from gmje_bench.views.config import ViewConfig, configured, preset
from gmje_bench.views.crops import CropDraws
from gmje_bench.views.two_views import TwoViews

__all__ = ["CropDraws", "TwoViews", "ViewConfig", "configured", "preset"]
