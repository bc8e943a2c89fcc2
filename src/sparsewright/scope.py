"""Which parameters are sparsified, and why the others are not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

_WRAPPER_PREFIX = re.compile(r"^(?:module\.|_orig_mod\.|_forward_module\.)+")
# Under weight normalisation and torch's own pruning the weight is computed from the second or third of these.
_WEIGHT_NAMES = ("weight", "weight_v", "weight_orig")
_SHARDED_TYPES = {"DTensor", "FlatParameter"}


@dataclass(frozen=True)
class Scope:
    """The sparsified parameters of a model, by canonical name, and the reason why each other one is left out."""

    parameters: dict[str, nn.Parameter]
    left_out: dict[str, str]


@dataclass(frozen=True)
class _Use:
    """One place where a module holds a parameter; a shared parameter has several."""

    name: str
    module: nn.Module

    @property
    def local_name(self) -> str:
        """The parameter's name within its module."""
        return self.name.rpartition(".")[2]


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Map each parameter name to its name in the unwrapped model.

    The prefixes ``module.``, ``_orig_mod.`` and ``_forward_module.`` that wrappers (DDP, averaged models,
    ``torch.compile``, Fabric) put in front are stripped, and so is ``_orig_mod.`` further inside, where a part of the
    model was compiled. Names are left as they are if stripping would make two of them equal.
    """
    names = list(names)
    stripped = {name: _WRAPPER_PREFIX.sub("", name).replace("._orig_mod.", ".") for name in names}
    if len(set(stripped.values())) < len(names):
        return {name: name for name in names}
    return stripped


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters of a model by canonical name; a shared one under each of its names."""
    raw = dict(model.named_parameters(remove_duplicate=False))
    names = canonical_names(raw)
    return {names[name]: parameter for name, parameter in raw.items()}


def find_scope(
    model: nn.Module, include: str | Sequence[str] | None = None, exclude: str | Sequence[str] | None = None
) -> Scope:
    """Decide which parameters of ``model`` are sparsified.

    By default that is every trainable weight with 2 or more dimensions of a Linear or Conv layer. ``include`` replaces
    this rule: every floating-point parameter with 2 or more dimensions that matches one of its glob patterns is in,
    whatever its module and even if frozen. ``exclude`` then takes away. A shared parameter counts once, under its
    first name, and only if each of its uses is in scope.

    Raises:
        TypeError: the model is no module, or a pattern no string.
        ValueError: a pattern that matches nothing that could be sparsified, an uninitialised or sharded parameter, an
            empty scope.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    included, excluded = _patterns(include, "include"), _patterns(exclude, "exclude")
    uses = _uses(model)
    all_names = [use.name for group in uses.values() for use in group]
    for option, patterns in (("include", included), ("exclude", excluded)):
        for pattern in patterns or ():
            _check_matches(option, pattern, all_names)

    parameters: dict[str, nn.Parameter] = {}
    left_out: dict[str, str] = {}
    for parameter, group in uses.items():
        _refuse_unsupported(group[0].name, parameter, group[0].module)
        reasons = [_reason_against(use, parameter, included, excluded) for use in group]
        blocking = [(use, reason) for use, reason in zip(group, reasons, strict=True) if reason]
        if not blocking:
            parameters[group[0].name] = parameter
        elif len(blocking) == len(group):
            left_out[group[0].name] = blocking[0][1]
        else:
            use, reason = blocking[0]
            left_out[group[0].name] = f"shared with {use.name!r}, which is out of scope: {reason}"
    _check_patterns_used(included, uses, left_out)
    if not parameters:
        raise ValueError(f"nothing to sparsify in {type(model).__name__}: {_describe(left_out)}")
    return Scope(parameters, left_out)


def _patterns(patterns: str | Sequence[str] | None, option: str) -> list[str] | None:
    if patterns is None:
        return None
    if not isinstance(patterns, (str, Sequence)):
        raise TypeError(f"{option} takes glob patterns over parameter names (a list of strings), got {patterns!r}")
    result = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in result:
        if not isinstance(pattern, str):
            raise TypeError(f"{option} takes glob patterns over parameter names (strings), got {pattern!r}")
    if option == "include" and not result:
        raise ValueError("include is an empty list: give at least one pattern, or None for the default scope")
    return result


def _uses(model: nn.Module) -> dict[nn.Parameter, list[_Use]]:
    raw: list[tuple[str, nn.Module, nn.Parameter]] = []
    for module_name, module in model.named_modules(remove_duplicate=False):
        for local_name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            raw.append((f"{module_name}.{local_name}" if module_name else local_name, module, parameter))
    names = canonical_names(name for name, _, _ in raw)
    uses: dict[nn.Parameter, list[_Use]] = {}
    for name, module, parameter in raw:
        uses.setdefault(parameter, []).append(_Use(names[name], module))
    return uses


def _reason_against(
    use: _Use, parameter: nn.Parameter, included: list[str] | None, excluded: list[str] | None
) -> str | None:
    """Why this use of a parameter is out of scope; None if it is in."""
    for pattern in excluded or ():
        if fnmatchcase(use.name, pattern):
            return f"excluded by the pattern {pattern!r}"
    if parameter.dim() < 2:
        return "has fewer than 2 dimensions"
    if parameter.numel() == 0:
        return "has no elements"
    if not parameter.is_floating_point():
        return f"its type {parameter.dtype} is not a real floating-point type"
    if included is not None:
        return None if any(fnmatchcase(use.name, p) for p in included) else "matches no include pattern"
    if not isinstance(use.module, (nn.Linear, nn.modules.conv._ConvNd)):
        return f"{type(use.module).__name__} is neither a Linear nor a Conv layer"
    if use.local_name not in _WEIGHT_NAMES:
        return "is not the weight of its layer; include it by name to sparsify it"
    if not parameter.requires_grad:
        return "is frozen (requires_grad=False); include it by name to sparsify it"
    return None


def _refuse_unsupported(name: str, parameter: nn.Parameter, module: nn.Module) -> None:
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise ValueError(f"parameter {name!r} is not initialised yet: run one forward pass before you sparsify")
    if _SHARDED_TYPES & {kind.__name__ for kind in type(parameter).__mro__} or "_fsdp_wrapped_module" in name:
        raise ValueError(
            f"parameter {name!r} is sharded ({type(parameter).__name__}): DTensor and FSDP parameters are not "
            "supported yet; sparsify the unsharded model, for instance under DDP"
        )


def _check_matches(option: str, pattern: str, names: Sequence[str]) -> None:
    if any(fnmatchcase(name, pattern) for name in names):
        return
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or list(names[:3])
    raise ValueError(f"{option} pattern {pattern!r} matches no parameter; names look like {', '.join(map(repr, near))}")


def _check_patterns_used(
    included: list[str] | None, uses: dict[nn.Parameter, list[_Use]], left_out: dict[str, str]
) -> None:
    for pattern in included or ():
        matched = [group[0].name for group in uses.values() if any(fnmatchcase(use.name, pattern) for use in group)]
        if all(name in left_out for name in matched):
            reasons = {name: left_out[name] for name in matched}
            raise ValueError(
                f"include pattern {pattern!r} matches nothing that can be sparsified: {_describe(reasons)}"
            )


def _describe(left_out: dict[str, str]) -> str:
    shown = [f"{name!r} {reason}" for name, reason in list(left_out.items())[:4]]
    return "; ".join(shown) + (f"; and {len(left_out) - 4} more" if len(left_out) > 4 else "") or "no parameters"
