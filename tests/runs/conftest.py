"""Whole runs come first: where two processes share the tests, one waits for Ray while the other computes."""

from pathlib import Path

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.path.is_relative_to(HERE))
