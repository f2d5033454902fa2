"""Benchmarks of the workbench, as ratios within one run; part of a checkout, not of the package.

`python -m workbench.bench` times training, `python -m benchmarks.metrics` the metrics, `python -m benchmarks.latency` the attention inspector,
`python -m benchmarks.decoding` the decoding of images.
"""
