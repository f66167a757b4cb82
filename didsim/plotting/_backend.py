"""Imports matplotlib, even when MPLBACKEND names no backend: files are drawn without one."""

import os
import sys

try:
    import matplotlib
except ValueError:
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[module]  # what the failed import left half done
    unusable = os.environ.pop("MPLBACKEND", "")
    import matplotlib

    os.environ["MPLBACKEND"] = unusable

__all__ = ["matplotlib"]
