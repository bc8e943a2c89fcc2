"""GReg-1 and GReg-2: L2 penalties that grow until what is to be removed is close to zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from sparsewright.growing_penalty import next_level, single, updates_until
from sparsewright.options import PENALTY, PICKING, Options
from sparsewright.penalty import LayerPenalty, PenaltySparsifier


class GReg1(PenaltySparsifier):
    """Growing regularization, choosing first (Wang et al., arXiv 2012.09243, GReg-1).

    The groups (weights, filters or input channels) with the smallest mean magnitude of each layer are chosen when the
    sparsifier is made, from a trained network. Their L2 penalty then grows by ``reg_step`` every ``reg_interval``
    optimizer steps, starting with the first: in every step, penalty * weight is added to the gradient, on top of the
    optimizer's weight decay. When the penalty passes ``reg_limit``, or the mean magnitude of the kept groups is
    ``magnitude_ratio_limit`` times that of the chosen ones in all layers (as a running average), the penalties are
    held for ``stabilize_steps`` more steps, and :attr:`finished` is true. ``finalize`` removes: it zeroes the chosen
    groups, and with filters their biases and batch norms. ``sparsewright.shrink`` then makes the network smaller.

    Per layer min(ceil(ratio * groups), groups - 1) groups are removed.

    The original tests the ratio of magnitudes with averages of the step before for later layers, and not for single
    weights; here all layers' current averages count, for weights too.

    Args:
        sparsity: a number; a mapping of glob patterns over parameter names to ratios (others: 0); or a list of ratios
            for the stem, the stages and the classifier of a residual network. A number or a list leaves whole what
            cannot be removed alone, see :attr:`left_whole`.
        total_steps: None runs until :attr:`finished`; else at least :meth:`steps_needed`.
        granularity, reg_step, reg_interval, reg_limit, growing, magnitude_ratio_limit, stabilize_steps: see
            :class:`sparsewright.options.Options`; ``growing=False`` is the baseline with a fixed penalty.
        **others: the other common arguments of :class:`sparsewright.Sparsifier`.

    Raises:
        ValueError, TypeError: ratios that fit no layer, a ``total_steps`` that is too small, an option that is not
            allowed.
    """

    defaults: ClassVar[Mapping[str, Any]] = {**PENALTY, "growing": True}

    @classmethod
    def _most_updates(cls, options: Options) -> int:
        return updates_until(0.0, options.reg_step, options.reg_limit, inclusive=False, option="reg_step")[0]

    @torch.no_grad()
    def _apply_start(self) -> None:
        super()._apply_start()
        for name, number in self._groups.numbers.items():
            self._layers[name].picked = True
            if number:
                self._choose(name)

    def _advance_layer(self, name: str, layer: LayerPenalty) -> None:
        layer.level = next_level(layer.level, self.options.reg_step)
        layer.finished = layer.level > self.options.reg_limit or self._all_apart()

    def _all_apart(self) -> bool:
        averages = [layer.average for name, layer in self._layers.items() if self._groups.numbers[name]]
        return all(average is not None and average >= self.options.magnitude_ratio_limit for average in averages)


class GReg2(PenaltySparsifier):
    """Growing regularization, choosing by what it shows (Wang et al., arXiv 2012.09243, GReg-2).

    First one L2 penalty grows on every weight, by ``pick_step`` every ``reg_interval`` optimizer steps up to
    ``pick_limit``: weights in directions of high curvature resist it, so that the magnitudes drift apart (section 3.3
    of the paper). Then the groups with the smallest mean magnitude of each layer are chosen. Their penalty grows on by
    ``reg_step`` as in :class:`GReg1`, while the kept ones get the fixed ``recover_penalty``, by default negative. A
    layer is pushed until its penalty passes ``reg_limit`` or its own ratio of magnitudes reaches
    ``magnitude_ratio_limit``; after the last one all are held for ``stabilize_steps``. ``finalize`` removes, at any
    step: where nothing is chosen yet, by the magnitudes of the moment.

    Args:
        sparsity, total_steps: as for :class:`GReg1`.
        granularity, reg_step, reg_interval, reg_limit, magnitude_ratio_limit, stabilize_steps, pick_step, pick_limit,
            recover_penalty: see :class:`sparsewright.options.Options`.
        **others: the other common arguments of :class:`sparsewright.Sparsifier`.

    Raises:
        ValueError, TypeError: as for :class:`GReg1`.
    """

    defaults: ClassVar[Mapping[str, Any]] = {**PENALTY, **PICKING}

    @classmethod
    def _most_updates(cls, options: Options) -> int:
        picking, level = updates_until(0.0, options.pick_step, options.pick_limit, inclusive=True, option="pick_step")
        if level > options.reg_limit:
            return picking
        return (
            picking + updates_until(level, options.reg_step, options.reg_limit, inclusive=False, option="reg_step")[0]
        )

    def _prepare(self) -> None:
        super()._prepare()
        for name, number in self._groups.numbers.items():
            self._layers[name].picked = not number

    @torch.no_grad()
    def _advance_layer(self, name: str, layer: LayerPenalty) -> None:
        if layer.picked:
            layer.level = next_level(layer.level, self.options.reg_step)
            layer.kept_level = single(self.options.recover_penalty)
        else:
            layer.level = layer.kept_level = next_level(layer.level, self.options.pick_step)
            if layer.level >= self.options.pick_limit:
                self._choose(name)
        apart = layer.average is not None and layer.average >= self.options.magnitude_ratio_limit
        layer.finished = layer.picked and (layer.level > self.options.reg_limit or apart)
