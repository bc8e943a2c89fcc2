"""Random small networks, random requests: the smaller network always computes what the masked one does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from shrink_networks import LAYERS, check_planned, randomised
from torch import Tensor, nn

KINDS = ("plain", "residual", "joined", "depthwise", "grouped", "padded")
ACTIVATIONS = (F.relu, F.gelu, torch.tanh, torch.sigmoid, F.hardswish, F.softplus)


class Block(nn.Module):
    """One way of using a convolution; the number of channels stays even."""

    def __init__(self, kind: str, inputs: int, outputs: int, activation: int) -> None:
        super().__init__()
        self.kind = kind
        groups = {"depthwise": inputs, "grouped": 2}.get(kind, 1)
        keeps_width = kind in ("residual", "depthwise")
        self.conv = nn.Conv2d(inputs, inputs if keeps_width else outputs, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(self.conv.out_channels)
        self.activation = ACTIVATIONS[activation]
        added = {"joined": inputs, "padded": 2}.get(kind, 0)
        self.width = self.conv.out_channels + added

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        if self.kind == "residual":
            out = out + x
        if self.kind == "joined":
            out = torch.cat([x, out], dim=1)
        if self.kind == "padded":
            out = F.pad(out, (0, 0, 0, 0, 1, 1))
        return self.activation(out)


class Random(nn.Module):
    """A chain of blocks, then two Linear layers behind a flatten; input (batch, 2, 4, 4)."""

    def __init__(self, blocks: list[tuple[str, int, int]]) -> None:
        super().__init__()
        chain, width = [], 2
        for kind, outputs, activation in blocks:
            chain.append(Block(kind, width, 2 * outputs, activation))
            width = chain[-1].width
        self.blocks = nn.Sequential(*chain)
        self.fc1 = nn.Linear(4 * width, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(F.max_pool2d(self.blocks(x), 2).flatten(1))))


BLOCKS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(1, 4), st.integers(0, len(ACTIVATIONS) - 1)), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(BLOCKS, st.sampled_from(["filter", "channel"]), st.floats(0, 1), st.integers(0, 2**16), st.booleans())
def test_smaller_and_masked_agree(
    blocks: list[tuple[str, int, int]], granularity: str, ratio: float, seed: int, aligned: bool
) -> None:
    torch.manual_seed(seed)
    model = randomised(Random(blocks), seed)
    image = torch.randn(2, 2, 4, 4)
    groups = {}
    for name, module in model.named_modules():
        if isinstance(module, LAYERS) and torch.rand(()) < 0.8:
            width = module.weight.shape[0 if granularity == "filter" else 1]
            # Layers that are coupled lose something only if they are asked for the same.
            order = torch.arange(width) if aligned else torch.randperm(width)
            groups[f"{name}.weight"] = order[: int(ratio * width)]
    smaller, plan = check_planned(model, image, groups, granularity, seed=seed)
    for name, asked in groups.items():
        assert set(plan.removed[name].tolist()) <= set(asked.tolist())
        assert (name in plan.kept) == (len(plan.removed[name]) < len(asked))
        if granularity == "filter":
            lost = model.get_parameter(name).shape[0] - smaller.get_parameter(name).shape[0]
            assert lost >= len(plan.removed[name])
