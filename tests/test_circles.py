"""No modules import each other in a circle, imports for annotations and within functions included."""

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest


def test_types_that_others_name_live_below_those_that_use_them() -> None:
    graph = grimp.build_graph("corank", "corank_lab", exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    # Funnel.open takes the address of a store, too
    imports["corank.serving.funnel.funnel"] -= {"corank.serving.store.base", "corank.serving.store.source"}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1][::-1]))
