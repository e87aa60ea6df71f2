"""Load this package's C sources as shared libraries, compiled by the local C compiler on first use and cached."""

from bnlab.batch_norm.c_library.library import load

__all__ = ["load"]
