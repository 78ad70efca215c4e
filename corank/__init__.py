"""corank trains the pre-ranker and the ranker of a funnel as one model.

The verbs of the command line are functions of `corank.verbs`; a service that only ranks needs `corank.funnel`, which
does not load torch.
"""

from importlib.metadata import version

__version__ = version("corank")
