"""Data sets by name: where each is looked for, how it is fetched, and the checksums its files must have.

Nothing here imports torch or numpy, so that listing data sets is instant.
"""

from crosstask.data.download.checksums import content as idx_content
from crosstask.data.download.dataset import KnownData
from crosstask.data.download.fashion_mnist import CLASSES as FASHION_MNIST_CLASSES
from crosstask.data.download.fashion_mnist import SHA256 as FASHION_MNIST_SHA256
from crosstask.data.download.fashion_mnist import find_idx
from crosstask.data.download.known import KNOWN, DataRow, data_table, frost_folder
from crosstask.data.download.places import Report, cache_dir

__all__ = [
    "FASHION_MNIST_CLASSES",
    "FASHION_MNIST_SHA256",
    "KNOWN",
    "DataRow",
    "KnownData",
    "Report",
    "cache_dir",
    "data_table",
    "find_idx",
    "frost_folder",
    "idx_content",
]
