"""C sources of this package as shared libraries: compiled with the local C compiler on first use and cached."""

from bnlab.batch_norm.c_library.library import load

__all__ = ["load"]
