"""A plugin of pytest that runs the property-based tests alone, with FAULTS_EXAMPLES random examples each in place of a few fixed ones."""

import os

from hypothesis import HealthCheck, settings


def pytest_collection_modifyitems(config, items):
    chosen = [item for item in items if getattr(item.obj, "is_hypothesis_test", False)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
    for item in chosen:
        test = getattr(item.obj, "__func__", item.obj)
        test._hypothesis_internal_use_settings = settings(
            max_examples=int(os.environ["FAULTS_EXAMPLES"]), derandomize=False, database=None, deadline=None,
            suppress_health_check=list(HealthCheck), print_blob=True,
        )  # fmt: skip
