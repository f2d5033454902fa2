"""Interactive views of runs for JupyterLab, each one Python class and one plain ES module."""

from .dashboard import Dashboard

__all__ = ["Dashboard"]
