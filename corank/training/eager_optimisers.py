"""torch's optimisers without torch's compiler, which they load when they are made, and by which nothing is compiled.

`torch._dynamo` takes nearly as long to import as torch itself. An optimiser imports it to tell it that its methods
are not to be compiled.
"""

import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch.optim import Adam, Optimizer


@cache
def skip_compiler() -> None:
    """Let optimisers call their methods as they are, which `torch._dynamo.disable` would do, too.

    Nothing is changed if the compiler is loaded, or where torch has other names for what is changed here: optimisers
    load it then.
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = getattr(vars(Optimizer).get(name), "__wrapped__", None)
        if method is not None:
            method.__dynamo_disable = method
    step = getattr(vars(Adam)["step"], "__wrapped__", None)
    if step is not None:
        Adam.step = _with_grad_of_defaults(step)  # type: ignore[method-assign]


def _with_grad_of_defaults(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that records gradients if its optimiser is differentiable, as torch's own does."""

    @wraps(step)
    def run(self: Optimizer, *given: Any, **named: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *given, **named)

    return run
