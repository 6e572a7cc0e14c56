"""No module imports another that, in the end, imports it: not within a function and not for a type checker either."""

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest


def _order(imported: dict[str, set[str]]) -> list[str]:
    return list(TopologicalSorter(imported).static_order())


def test_there_is_no_import_circle():
    graph = grimp.build_graph("fedsim", "attacks", "defenses", cache_dir=None)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert sum(map(len, imported.values())) > 500
    _order(imported)


def test_imports_within_functions_and_for_type_checkers_count():
    graph = grimp.build_graph("fedsim", cache_dir=None)
    assert "fedsim.api" in graph.find_modules_directly_imported_by("fedsim")  # both are such
    with pytest.raises(CycleError):
        _order({"a": {"b"}, "b": {"c"}, "c": {"a"}})
