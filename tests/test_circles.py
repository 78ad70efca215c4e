"""No modules import each other in a circle, imports for annotations and within functions included."""

from graphlib import CycleError, TopologicalSorter

import pytest

grimp = pytest.importorskip("grimp")


def test_types_that_others_name_live_below_those_that_use_them() -> None:
    packages = "corank", "corank_serve", "corank_continual", "corank_lab"
    graph = grimp.build_graph(*packages, exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # where type checkers find the names that other packages add
    imports["corank"] -= {module for module in imports["corank"] if not module.startswith("corank.")}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1][::-1]))
