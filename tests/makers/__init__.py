# SPDX-License-Identifier: Apache-2.0
"""Makes VMDK images for the tests without any code of the package under test.

Each function writes one kind of file straight from a description of the format, so that a mistake
shared by the package's reader and writer cannot hide. The images are checked against other
programs where those know the kind; none was checked on a VMware product.
"""

from .common import Grain, Grains, expected, poke, sample_grain
from .esx import cowd, flat, sesparse, sesparse_entry, sesparse_regions
from .hosted import big_sparse, hosted_header, hosted_sparse, split_sparse
from .streams import Variant, stream
from .text import descriptor, text_replace, write_descriptor

__all__ = [
    "Grain",
    "Grains",
    "Variant",
    "big_sparse",
    "cowd",
    "descriptor",
    "expected",
    "flat",
    "hosted_header",
    "hosted_sparse",
    "poke",
    "sample_grain",
    "sesparse",
    "sesparse_entry",
    "sesparse_regions",
    "split_sparse",
    "stream",
    "text_replace",
    "write_descriptor",
]
