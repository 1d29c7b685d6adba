r"""Simulators :math:`\theta \to x` and dynamics: built in or the user's own, found by name."""

from __future__ import annotations

__all__ = ["BUILT_IN", "make"]

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, nearest

if TYPE_CHECKING:
    from .base import Simulator
    from .dynamics import Dynamics

# Name in a job file -> module of this room and class in it.
BUILT_IN = {
    "spectrum": "spectrum:Spectrum",
    "petitradtrans": "petitradtrans:PetitRADTRANS",
    "primitive_equations": "primitive_equations:PrimitiveEquations",
    "lorenz63": "lorenz:Lorenz63",
    "lorenz96": "lorenz:Lorenz96",
    "kolmogorov": "kolmogorov:Kolmogorov",
    "black_sea": "black_sea:BlackSea",
    "kolmogorov-parameters": "flow_parameters:FlowParameters",
}


def make(
    name: str, options: dict[str, Any] | None = None, prior: dict | None = None
) -> Simulator | Dynamics:
    r"""The simulator or the dynamics of a name, made with its options.

    Arguments:
        name: Of a built-in simulator, or `package.module:Name` of one's own.
        options: Keyword arguments of its class.
        prior: Other bounds of some parameters, by name (see `Prior.replaced`).

    Raises:
        BadInput: The name, an option or a bound is wrong.
    """
    from .base import check
    from .dynamics import is_dynamics

    where = f"simulator '{name}'"
    if ":" in name:
        module, _, attribute = name.partition(":")
    elif name in BUILT_IN:
        module, _, attribute = f"{__name__}.{BUILT_IN[name]}".partition(":")
    else:
        hint = nearest(name, BUILT_IN) or ""
        raise BadInput(
            "no such simulator", where, f"{hint} Or write 'package.module:Name'.".strip()
        )
    try:
        found = importlib.import_module(module)
    except ImportError as e:
        raise BadInput(f"module '{module}' cannot be imported ({e})", where) from e
    if not hasattr(found, attribute):
        known = [n for n, _ in inspect.getmembers(found, inspect.isclass)]
        raise BadInput(f"'{module}' has no '{attribute}'", where, nearest(attribute, known))
    kind = getattr(found, attribute)
    if not callable(kind):
        raise BadInput(f"'{attribute}' is no class or function", where)
    options = options or {}
    try:
        signature = inspect.signature(kind)
    except ValueError as e:  # a class of C
        raise BadInput(f"'{attribute}' is no simulator", where, "See simulators/base.py.") from e
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for option in options:
        if option not in signature.parameters and not open_ended:
            raise BadInput(f"no option '{option}'", where, nearest(option, signature.parameters))
    try:
        signature.bind(**options)
    except TypeError as e:
        raise BadInput(str(e), where) from e
    simulator = kind(**options)
    if is_dynamics(simulator):
        return simulator
    simulator = check(simulator, name)
    if prior:
        simulator.prior = simulator.prior.replaced(prior)
    return simulator
