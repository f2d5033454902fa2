"""How fast the workbench is, in ratios of one run: of a checkout, and no part of the package.

`python -m workbench.bench` times training, `python -m benchmarks.metrics` the metrics, `python -m benchmarks.latency` the attention inspector.
"""
