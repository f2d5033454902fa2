"""Interactive views of runs for JupyterLab, each one Python class and one plain ES module."""

from .dashboard import Dashboard
from .inspector import AttentionInspector

__all__ = ["AttentionInspector", "Dashboard"]
