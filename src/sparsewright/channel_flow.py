"""Where the output channels of each layer go, read from the model's forward pass with torch.fx.

It tells which filters or input channels can be removed without touching any other layer's, and what has to fall silent
with a filter: the batch norms and depthwise convolutions that its output passes through.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx, nn

from sparsewright.modules import PER_CHANNEL_NORMS, Convolution, is_depthwise, is_weight_layer, unwrapped
from sparsewright.scope import canonical_names

# All of these act on each channel alone, and map 0 to 0.
_PASSING_MODULES = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Tanh, nn.Hardtanh, nn.Softsign, nn.Tanhshrink, nn.Hardshrink, nn.Softshrink, nn.PReLU,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten, nn.Upsample,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_PASSING_FUNCTIONS = {
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish",
    "tanh", "hardtanh", "softsign", "dropout", "dropout1d", "dropout2d", "dropout3d", "flatten", "interpolate",
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "mean", "contiguous",
    "view", "reshape", "squeeze", "boolean_dispatch",
}  # fmt: skip
_RESHAPING = {"flatten", "view", "reshape"}
_JOINING = {"cat", "concat", "concatenate"}
_ADDING = {"add", "add_", "iadd", "sub", "sub_", "isub"}
_COMBINING = {*_ADDING, "mul", "mul_", "imul", "stack"}
_ASKING = {"size", "dim", "getattr", "shape"}


@dataclass(frozen=True)
class Place:
    """Where a layer's filters are in a tensor on their way.

    Attributes:
        offset: channel of the first filter.
        width: number of channels.
        flat: whether feature maps were flattened since: then each channel is a run of entries.
    """

    offset: int
    width: int
    flat: bool = False


@dataclass(frozen=True)
class Follower:
    """A norm or depthwise convolution that a layer's filters pass through.

    Attributes:
        module: which.
        start: its first channel that belongs to the filters.
        spread: how many of its channels each filter is.
    """

    module: nn.Module
    start: int
    spread: int


@dataclass
class _Path:
    """What one layer's output meets on its way to the layers that use it."""

    consumers: list[str] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    unplaced: list[str] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)
    reshaped: bool = False
    joined: bool = False


class ChannelFlow:
    """The paths from layer to layer in a model; parameter names in, reasons and modules out.

    Args:
        model: wrapped or not; its forward pass is traced, not run.

    Raises:
        TracingError: torch.fx cannot trace the forward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        inner = unwrapped(model)
        self._modules = dict(inner.named_modules())
        self._graph = _traced(inner)
        self._calls: dict[str, list[fx.Node]] = {}
        for node in self._graph.nodes:
            if node.op == "call_module":
                self._calls.setdefault(str(node.target), []).append(node)
        raw = [name for name, _ in inner.named_parameters(remove_duplicate=False)]
        self._module_of = {name: raw_name.rpartition(".")[0] for raw_name, name in canonical_names(raw).items()}
        self._paths = {name: self._path(name) for name in self._calls if self._is_layer(name)}

    def why_not_filters(self, name: str) -> str | None:
        """Why filters of the weight ``name`` cannot be removed without touching another layer's; None if they can."""
        layer = self._module_of.get(name, "")
        path = self._paths.get(layer)
        if (problem := self._unusual(layer)) is not None or path is None:
            return problem or "is not used as a layer of its own"
        if path.obstacles:
            return path.obstacles[0]
        return None if path.consumers else "feeds no other layer"

    def why_not_channels(self, name: str) -> str | None:
        """The same for the input channels of the weight ``name``."""
        layer = self._module_of.get(name, "")
        if (problem := self._unusual(layer)) is not None or layer not in self._paths:
            return problem or "is not used as a layer of its own"
        producers = [other for other, path in self._paths.items() if layer in path.consumers]
        if len(producers) != 1:
            return "has inputs of several layers" if producers else "has inputs that are not the output of one layer"
        path = self._paths[producers[0]]
        if path.obstacles:
            return f"has inputs of {producers[0]}, which {path.obstacles[0]}"
        if len(path.consumers) > 1:
            return f"shares its inputs with {', '.join(other for other in path.consumers if other != layer)}"
        if path.joined:
            return "has concatenated inputs"
        if self._unusual(producers[0]) is not None:
            return f"has inputs of {producers[0]}, which {self._unusual(producers[0])}"
        if path.reshaped and isinstance(self._modules[producers[0]], Convolution):
            return "has the positions of a feature map as inputs"
        return None

    def added_to(self, name: str) -> list[str]:
        """Weights whose filters are added to those of the weight ``name``, itself included, in the model's order."""
        layer = self._module_of.get(name, "")
        if layer not in self._paths:
            return [name]
        sums = {other: self._sums(other) for other in self._paths}
        joint = {layer}
        while grown := {
            other for other in sums if other not in joint and any(sums[other] & sums[one] for one in joint)
        }:
            joint |= grown
        return [weight for weight, other in self._module_of.items() if other in joint and weight.endswith("weight")]

    def _sums(self, layer: str) -> set[fx.Node]:
        """The additions that a layer's output takes part in before another layer uses it."""
        seen: set[fx.Node] = set()
        self._path(layer, through_sums=True, seen=seen)
        return {node for node in seen if _is_addition(node)}

    def followers(self, name: str) -> list[Follower]:
        """Norms and depthwise convolutions that the filters of the weight ``name`` pass through."""
        layer = self._module_of.get(name, "")
        return self._path(layer).followers if layer in self._calls else []

    def outputs(self, name: str) -> int | None:
        """The number of output channels of the weight ``name``'s layer; None where it is not known."""
        layer = self._module_of.get(name, "")
        return self._width(self._calls[layer][0]) if layer in self._calls else None

    def unplaced_norms(self, name: str) -> list[str]:
        """Those of which it is not known which of their channels belong to the filters, by module name.

        Norms behind a sum are among them: there other outputs share the channels.
        """
        layer = self._module_of.get(name, "")
        if layer not in self._calls:
            return []
        path, beyond = self._path(layer), self._path(layer, through_sums=True)
        known = {id(follower.module) for follower in path.followers}
        names = {id(module): other for other, module in self._modules.items()}
        behind_sums = [names[id(item.module)] for item in beyond.followers if id(item.module) not in known]
        return list(dict.fromkeys([*path.unplaced, *beyond.unplaced, *behind_sums]))

    def _is_layer(self, name: str) -> bool:
        module = self._modules[name]
        return is_weight_layer(module) and not is_depthwise(module)

    def _unusual(self, layer: str) -> str | None:
        if layer not in self._calls:
            return None
        module = self._modules[layer]
        if is_depthwise(module):
            return "is depthwise: its filters go with those of the layer before it"
        if isinstance(module, Convolution) and module.groups > 1:
            return f"is a grouped convolution (groups={module.groups})"
        return "is used more than once" if len(self._calls[layer]) > 1 else None

    def _path(self, layer: str, *, through_sums: bool = False, seen: set[fx.Node] | None = None) -> _Path:
        """What meets the output of a layer's first call; ``seen`` is filled with the nodes."""
        path = _Path()
        start = self._calls[layer][0]
        width = self._width(start)
        first = None if width is None else Place(0, width)
        visited: set[tuple[fx.Node, Place | None]] = set()
        waiting: list[tuple[fx.Node, Place | None]] = [(start, first)]
        while waiting:
            node, place = waiting.pop()
            for user in node.users:
                there = self._place_in(user, node, place)
                if (user, there) in visited:
                    continue
                visited.add((user, there))
                if self._visit(user, there, path) or (through_sums and _is_addition(user)):
                    waiting.append((user, there))
        if seen is not None:
            seen |= {node for node, _ in visited}
        path.consumers = list(dict.fromkeys(path.consumers))
        return path

    def _visit(self, node: fx.Node, place: Place | None, path: _Path) -> bool:
        """Note what a node does to the channels at a place; whether to go on behind it."""
        if node.op == "output":
            path.obstacles.append("is an output of the network")
            return False
        if node.op == "call_module":
            return self._visit_module(str(node.target), place, path)
        name = _function_name(node)
        if name in _ASKING:
            return False
        path.reshaped |= name in _RESHAPING
        path.joined |= name in _JOINING
        if name in _PASSING_FUNCTIONS or (name in _JOINING and _joins_channels(node)) or _scales(node, name):
            return True
        other = "is added to or combined with other outputs" if name in _COMBINING else f"passes through {name}"
        path.obstacles.append(other)
        return False

    def _visit_module(self, name: str, place: Place | None, path: _Path) -> bool:
        module = self._modules[name]
        if self._is_layer(name):
            path.consumers.append(name)
            return False
        if isinstance(module, PER_CHANNEL_NORMS) or is_depthwise(module):
            follower = _placed(module, place)
            if follower is None:
                path.unplaced.append(name)
            else:
                path.followers.append(follower)
            if _keeps_zero(getattr(module, "act", None)):
                return True
        elif isinstance(module, _PASSING_MODULES):
            path.reshaped |= isinstance(module, nn.Flatten)
            return True
        path.obstacles.append(f"passes through {type(module).__name__}")
        return False

    def _place_in(self, user: fx.Node, node: fx.Node, place: Place | None) -> Place | None:
        """Where the channels that are at ``place`` of a node's output are in what ``user`` makes of it."""
        if place is None:
            return None
        name = "" if user.op == "call_module" else _function_name(user)
        if name in _JOINING:
            widths = [self._width(other) for other in user.all_input_nodes]
            known = [width for width in widths if width is not None]
            if place.flat or len(known) < len(widths):
                return None
            return Place(place.offset + sum(known[: user.all_input_nodes.index(node)]), sum(known))
        if name in _RESHAPING or isinstance(self._modules.get(str(user.target)), nn.Flatten):
            return Place(place.offset, place.width, flat=True)
        return place

    def _width(self, node: fx.Node) -> int | None:
        """The number of channels of a node's output; None where that cannot be told."""
        inputs = node.all_input_nodes
        if node.op == "call_module":
            module = self._modules[str(node.target)]
            for attribute in ("out_channels", "out_features", "num_features"):
                if isinstance(size := getattr(module, attribute, None), int):
                    return size
            passes = isinstance(module, _PASSING_MODULES) and not isinstance(module, nn.Flatten)
            return self._width(inputs[0]) if passes else None
        name = _function_name(node) if node.op.startswith("call_") else ""
        if name in _JOINING and _joins_channels(node):
            widths = [self._width(other) for other in inputs]
            return None if None in widths else sum(width for width in widths if width is not None)
        passes = (name in _PASSING_FUNCTIONS and name not in _RESHAPING) or name in _ADDING or _scales(node, name)
        return self._width(inputs[0]) if passes and inputs else None


class TracingError(ValueError):
    """A forward pass that torch.fx cannot trace."""


class _Tracer(fx.Tracer):
    """Takes layers and norms as they are, also those of other libraries."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = (nn.Linear, Convolution, *PER_CHANNEL_NORMS)
        return isinstance(m, ours) or super().is_leaf_module(m, module_qualified_name)


def _placed(module: nn.Module, place: Place | None) -> Follower | None:
    """A norm or depthwise convolution with the channels that a place stands for; None if they do not fit."""
    size = module.num_features if isinstance(module, PER_CHANNEL_NORMS) else module.out_channels
    if place is None or not isinstance(size, int) or size % place.width:
        return None
    spread = size // place.width
    return Follower(module, place.offset * spread, spread) if place.flat or spread == 1 else None


def _keeps_zero(activation: object) -> bool:
    """Whether the activation that a norm brings along, if any, maps 0 to 0."""
    return activation is None or isinstance(activation, _PASSING_MODULES)


def _traced(model: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:  # whatever a forward pass does with the tracer's stand-ins for tensors
        first_line = (str(error).splitlines() or [""])[0]
        raise TracingError(f"{type(model).__name__} cannot be traced ({type(error).__name__}: {first_line})") from error


def _function_name(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", str(node.target))


def _joins_channels(node: fx.Node) -> bool:
    """Whether a concatenation is one of different nodes along dimension 1."""
    dimension = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    given = node.args[0] if node.args else node.kwargs.get("tensors", ())
    return bool(dimension == 1) and isinstance(given, (list, tuple)) and len(set(given)) == len(given)


def _is_addition(node: fx.Node) -> bool:
    return node.op.startswith("call_") and node.op != "call_module" and _function_name(node) in _ADDING


def _scales(node: fx.Node, name: str) -> bool:
    """Whether a product or quotient is one with a plain number."""
    return name in ("mul", "mul_", "truediv", "div") and len(node.all_input_nodes) == 1
