"""Locates the config files."""

from pathlib import Path

__all__ = ["config_folder"]


def config_folder() -> str:
    """Return the absolute path of `conf/`: in the installed package, or else beside it in the repository."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"conf/train.yaml is neither in {package} nor beside it; install bnlab again.")
