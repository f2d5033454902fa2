"""Interactive views of runs for JupyterLab."""

from .dashboard import Dashboard
from .inspector import AttentionInspector

__all__ = ["AttentionInspector", "Dashboard"]
