"""The base of every method: scope, optimizer hooks, the step clock, masks that hold, state, and the end."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright import optimizers as optim
from sparsewright.checks import check_count, check_seed, check_sparsity
from sparsewright.distributed import broadcast, resolve_group
from sparsewright.masks import MaskSet, zero_outside_
from sparsewright.options import REQUIRED, resolve_options
from sparsewright.scope import find_scope

_FORMAT = 1
_attached: weakref.WeakSet[Optimizer] = weakref.WeakSet()


class Sparsifier:
    """Base of all methods: attaches to an optimizer's step hooks and keeps a model sparse while it trains.

    The training loop does not change: everything happens inside ``optimizer.step()``. Creation draws the start masks
    and zeroes those weights at once; it never touches optimizer state. Weights are masked in place and keep their
    names and identity; after every step, optimizer state that has one value per weight is masked as well.

    To resume, build model, optimizer and sparsifier as before and load their three states, in any order.

    Args:
        model: the model, wrapped (DDP, ``torch.compile``, ...) or not.
        optimizer: the optimizer that holds the model's weights, or a list of optimizers that are stepped together,
            always in the same order; a gradient scaler must not skip one of them in the very first round.
        sparsity: fraction of zeros among the sparsified weights at the end, in [0, 1); ratios per layer, by pattern or
            stage, for the methods that take them.
        total_steps: optimizer steps of the whole run, at least 1; a method that schedules nothing does without.
        include: glob patterns over parameter names that replace the default scope (weights with 2 or more dimensions
            of Linear and Conv layers).
        exclude: glob patterns over parameter names to leave out.
        seed: seed of the method's own random generator.
        process_group: ranks that must agree. None: the default group wherever ``torch.distributed`` is initialised;
            False: no synchronisation.
        **options: the method's own options, those named in the class's ``defaults``; see
            :class:`sparsewright.options.Options` for what each means.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it and says what is allowed.
    """

    defaults: ClassVar[Mapping[str, Any]]
    needs_total_steps: ClassVar[bool] = True
    one_shot: ClassVar[bool] = False
    """Whether the masks are final as soon as the sparsifier is made."""
    prunes_at_end: ClassVar[bool] = False
    """Whether there are no masks until :meth:`finalize` prunes."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        sparsity: float | Mapping[str, float] | Sequence[float] = REQUIRED,
        total_steps: int | None = None,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        seed: int = 0,
        process_group: Any = None,
        **options: Any,
    ) -> None:
        if not hasattr(type(self), "defaults"):
            raise TypeError(
                f"{type(self).__name__} is the base of the methods: use one of them, or sparsewright.create"
            )
        self.options = resolve_options(type(self).__name__, self.defaults, options)
        if sparsity is REQUIRED:
            raise TypeError(f"{type(self).__name__} needs sparsity, the fraction of zeros at the end, in [0, 1)")
        self.target_sparsity = self._checked_sparsity(sparsity)
        if total_steps is None and self.needs_total_steps:
            raise TypeError(f"{type(self).__name__} needs total_steps, the optimizer steps of the whole run")
        self.total_steps = None if total_steps is None else check_count(total_steps, "total_steps")
        self._optimizers = optim.as_optimizers(optimizer)
        for item in self._optimizers:
            if item in _attached:
                raise ValueError(
                    f"a sparsifier is attached to this {type(item).__name__} already: detach() or finalize() it first"
                )
        self._model = model
        scope = find_scope(model, include, exclude)
        self.parameters: dict[str, nn.Parameter] = scope.parameters
        self._left_out = scope.left_out
        self._owner = optim.owners(self._optimizers, self.parameters)
        self._group = resolve_group(process_group)
        self._generator = torch.Generator().manual_seed(check_seed(seed))
        self._step_count = 0
        self._stepped: list[Optimizer] = []
        self._first_of_round: Optimizer | None = None
        self.topology_version = 0
        self._handles: list[Any] = []
        self._finalized = False
        self._prepare()
        self.masks = MaskSet({name: self._laid_out(name, mask) for name, mask in self._start_masks().items()})
        self._apply_start()
        self._attach()

    # What a method fills in.

    def _checked_sparsity(self, sparsity: Any) -> float:
        """The overall sparsity at the end; a method that takes more than a number may set it in :meth:`_prepare`."""
        return check_sparsity(sparsity)

    def _prepare(self) -> None:
        """Check options and build schedules, once the scope is known and before any weight changes."""

    def _start_masks(self) -> dict[str, Tensor]:
        """Masks at creation; empty for a method that has none until it prunes."""
        return {}

    def _before_step(self, optimizer: Optimizer, recomputed: bool) -> None:
        """All gradients of this optimizer are there and it has not moved yet.

        Args:
            optimizer: the one that is about to move.
            recomputed: whether its closure has just computed the gradients anew.
        """

    def _after_step(self) -> None:
        """Every optimizer has moved, the masks hold and the step is counted."""

    def _unmasked_state(self, name: str) -> Collection[str]:
        """State entries of a parameter that the method reads everywhere, and that are left unmasked therefore."""
        return ()

    def _settings(self) -> dict[str, Any]:
        """Plain values that a saved state must agree on with the sparsifier that loads it."""
        options = {
            # As pairs, since their order decides which pattern counts.
            name: [list(item) for item in value.items()] if isinstance(value, Mapping) else value
            for name, value in vars(self.options).items()
            if name in self.defaults
        }
        return {"sparsity": self.target_sparsity, "total_steps": self.total_steps, **options}

    def _extra_state(self) -> dict[str, Any]:
        return {}

    def _load_extra_state(self, state: Mapping[str, Any]) -> None:
        pass

    def _end(self) -> None:
        """What is left to do when the sparsifier is finalized."""
        if not self.finished:
            warnings.warn(
                f"{type(self).__name__} is finalized at step {self.step_count} of {self.total_steps}, before its "
                f"schedule has ended: sparsity stays at {self.sparsity():.4f} (asked for: {self.target_sparsity})",
                stacklevel=3,
            )

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do but train."""
        return True

    # Looking.

    @property
    def step_count(self) -> int:
        """Completed ``optimizer.step()`` calls; steps that a gradient scaler skipped do not count."""
        return self._step_count

    def sparsity(self) -> float:
        """Fraction of zeros among the sparsified weights, counted on the masks; exact zeros while there are none."""
        return self._zeros().sparsity()

    def layer_sparsity(self) -> dict[str, float]:
        """Name -> fraction of zeros, counted as in :meth:`sparsity`."""
        return self._zeros().layer_sparsity()

    def _zeros(self) -> MaskSet:
        return self.masks or MaskSet({name: parameter.detach() != 0 for name, parameter in self.parameters.items()})

    def scope_report(self) -> dict[str, str]:
        """Name -> reason, for every parameter that is left out of the scope."""
        return dict(self._left_out)

    def __repr__(self) -> str:
        weights = sum(parameter.numel() for parameter in self.parameters.values())
        return (
            f"{type(self).__name__}(sparsity={self.sparsity():.4f} of {self.target_sparsity:.6g}, "
            f"layers={len(self.parameters)}, weights={weights:,}, step={self.step_count} of {self.total_steps})"
        )

    # Ending.

    def finalize(self) -> None:
        """Apply the final masks and remove the hooks; the model is plain then, with exact zeros.

        Called before the schedule has ended it warns and keeps the current masks, but for the methods that prune only
        now, which prune to their budget. A second call does nothing.
        """
        if self._finalized:
            return
        self._end()
        self._hold_masks(self.parameters)
        self.detach()
        self._finalized = True

    def detach(self) -> None:
        """Remove the hooks and change nothing else; the masks no longer hold."""
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        _attached.difference_update(self._optimizers)

    # Saving.

    def state_dict(self) -> dict[str, Any]:
        """Masks, step, schedule settings and random state, as tensors and plain values only."""
        return {
            "format": _FORMAT,
            "method": type(self).__name__,
            "settings": self._settings(),
            "shapes": {name: list(parameter.shape) for name, parameter in self.parameters.items()},
            "step_count": self._step_count,
            "masks": self.masks.state_dict(),
            "random_state": self._generator.get_state(),
            **self._extra_state(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; nothing is changed if it does not fit.

        Raises:
            ValueError: a state of another method, other settings or other shapes; the difference is named.
        """
        if not self._handles:
            raise ValueError("this sparsifier is detached and cannot hold masks any more: make a new one to resume")
        masks = self._check_state(state)
        generator = _restored_generator(state["random_state"])
        self._load_extra_state(state)
        self._generator = generator
        self._step_count = int(state["step_count"])
        self._stepped.clear()
        if set(masks) == set(self.masks):
            for name, mask in masks.items():
                self.masks[name].copy_(mask)
        else:
            self.masks = MaskSet({name: self._laid_out(name, mask) for name, mask in masks.items()})
        self.topology_version += 1
        for name, mask in self.masks.items():
            zero_outside_(self.parameters[name], mask)

    def _check_state(self, state: Mapping[str, Any]) -> MaskSet:
        """Refuse a state that does not fit; returns its masks."""
        if not isinstance(state, Mapping):
            raise ValueError(f"this is not a sparsifier's state: {type(state).__name__}")
        missing = {"format", "method", "settings", "shapes", "step_count", "masks", "random_state"} - set(state)
        if missing:
            raise ValueError(f"this is not a sparsifier's state: {', '.join(sorted(missing))} missing")
        if state["format"] != _FORMAT:
            raise ValueError(f"the state has format {state['format']!r}; this version reads format {_FORMAT}")
        if state["method"] != type(self).__name__:
            raise ValueError(f"the state is of the method {state['method']}, this sparsifier is {type(self).__name__}")
        shapes = {name: list(parameter.shape) for name, parameter in self.parameters.items()}
        _refuse_difference("layers in scope", state["shapes"], shapes)
        _refuse_difference("settings", state["settings"], self._settings())
        masks = MaskSet.from_state_dict(state["masks"])
        _refuse_difference("masks", {name: list(mask.shape) for name, mask in masks.items()}, self._mask_shapes(masks))
        return masks

    def _mask_shapes(self, saved: MaskSet) -> dict[str, list[int]]:
        """Shapes that the saved masks must have: all layers', unless the method is without masks until it prunes."""
        names = self.parameters if self.masks or saved else ()
        return {name: list(self.parameters[name].shape) for name in names}

    def _laid_out(self, name: str, mask: Tensor) -> Tensor:
        """A mask on its weight's device and in its memory format, where applying it is several times faster."""
        return torch.empty_like(self.parameters[name], dtype=torch.bool).copy_(mask)

    # Inside optimizer.step().

    def _attach(self) -> None:
        for item in self._optimizers:
            self._handles.append(item.register_step_pre_hook(self._pre_hook))
            self._handles.append(item.register_step_post_hook(self._post_hook))
            _attached.add(item)

    def _pre_hook(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if optim.found_inf(optimizer) or optim.is_inner_step(optimizer):
            return None
        # An optimizer that a gradient scaler skipped leaves its round open; the next round must not end early for it.
        if optimizer is self._first_of_round:
            self._stepped.clear()
        closure = optim.split_closure(args, kwargs)
        if closure is None:
            self._before_step(optimizer, recomputed=False)
            return None
        return optim.with_closure(args, kwargs, self._after_backward(closure, optimizer))

    def _after_backward(self, closure: Callable[[], Any], optimizer: Optimizer) -> Callable[[], Any]:
        """The closure with the method's work behind its backward pass, where the gradients are there."""

        def run() -> Any:
            loss = closure()
            self._before_step(optimizer, recomputed=True)
            return loss

        return run

    def _post_hook(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if optim.found_inf(optimizer) or optim.is_inner_step(optimizer):
            return
        self._hold_masks(name for name, owner in self._owner.items() if owner is optimizer)
        if optimizer not in self._stepped:
            self._stepped.append(optimizer)
        if len(self._stepped) == len(self._optimizers):
            self._first_of_round = self._stepped[0]
            self._stepped.clear()
            self._step_count += 1
            self._after_step()

    @torch.no_grad()
    def _hold_masks(self, names: Any) -> None:
        """Zero masked weights and their optimizer state."""
        for name in names:
            if name not in self.masks:
                continue
            parameter, mask = self.parameters[name], self.masks[name]
            if mask.device != parameter.device:
                mask = self.masks.move(name, parameter.device)
            zero_outside_(parameter, mask)
            for value in optim.state_like(self._owner[name], parameter, skip=self._unmasked_state(name)):
                zero_outside_(value, mask)

    @torch.no_grad()
    def _apply_start(self) -> None:
        broadcast((parameter.data for parameter in self.parameters.values()), self._group)
        broadcast(self.masks.values(), self._group)
        for name, mask in self.masks.items():
            zero_outside_(self.parameters[name], mask)

    @torch.no_grad()
    def _commit(self, masks: Mapping[str, Tensor], *, mask_state: bool = True) -> None:
        """Make new masks the live ones, the first rank's on every rank.

        Weights that stay keep value and optimizer state; dropped and newly grown ones get 0 in both. Without
        ``mask_state`` the optimizer state is left for a later :meth:`_hold_masks`.
        """
        if self._group is not None:
            # Ranks may differ in which layers have a gradient, but must send and receive the same list of masks.
            masks = {name: masks[name] if name in masks else live.clone() for name, live in self.masks.items()}
            broadcast(masks.values(), self._group)
        for name, mask in masks.items():
            parameter, live = self.parameters[name], self.masks[name]
            stays = mask & live
            zero_outside_(parameter, stays)
            if mask_state:
                self._mask_state(name, stays, live.logical_or(~mask))
            live.copy_(mask)
        self.topology_version += 1

    def _mask_state(self, name: str, stays: Tensor, not_grown: Tensor) -> None:
        """Zero a parameter's optimizer state but for weights that stay; in what the method reads, only grown ones."""
        parameter, optimizer = self.parameters[name], self._owner[name]
        unmasked = self._unmasked_state(name)
        for value in optim.state_like(optimizer, parameter, skip=unmasked):
            zero_outside_(value, stays)
        for key in unmasked:
            value = optimizer.state.get(parameter, {}).get(key)
            if value is not None:
                zero_outside_(value, not_grown)


def _refuse_difference(what: str, saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    for key in [*here, *(key for key in saved if key not in here)]:
        if key not in saved or key not in here or not _same(saved[key], here[key]):
            raise ValueError(
                f"the state does not fit this sparsifier: {what} differ at {key!r}: "
                f"saved {saved.get(key, 'none')!r}, here {here.get(key, 'none')!r}"
            )


def _restored_generator(state: Any) -> torch.Generator:
    try:
        return torch.Generator().set_state(state.cpu())
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(f"the saved random state is damaged: {error}") from error


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return first == second or (math.isnan(first) and math.isnan(second))
    return first == second
