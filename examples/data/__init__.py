"""Image data by name or by path, decoded once and kept on the device."""

from examples.data.images import DataError, ImageData, Split
from examples.data.sources import load

__all__ = ["DataError", "ImageData", "Split", "load"]
