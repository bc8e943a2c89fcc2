"""The page of a pruning-plasticity study."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

from sparsewright.analysis.plasticity import RULES
from sparsewright.plasticity import PlasticityResult, Spread
from sparsewright.report.page import Choice, KeyFigure, Pairs, Paragraph, Plot, Section, Table, write_page
from sparsewright.report.plasticity_plots import UNIT, change_figure, heat_map, moment_title

DIVERGED = "diverged"


def write_plasticity_page(result: PlasticityResult, file: Path) -> Path:
    """Writes the page of ``result`` to ``file``, whole or not at all, and returns it.

    Raises:
        SaveError: writing failed.
    """
    write_page(
        file,
        f"Pruning plasticity of {result.model} on {result.data}",
        [section for horizon in result.horizons for section in _sections(result, horizon)],
        subtitle=f"{result.recipe}, {result.epochs} epochs, {_seeds(result)}, accuracy on {result.evaluated_on} data",
        headline=_headline(result),
    )
    return file


def _sections(result: PlasticityResult, horizon: str) -> list[Section]:
    """All that there is about the branches of one horizon."""
    part = result.of_horizon(horizon)
    sections = [_over_the_run(part), _heat_maps(part), _by_learning_rate(part), _base(part), _branches(part)]
    if len(result.horizons) == 1:
        return sections
    return [replace(section, title=f"{section.title}, trained on for {horizon}") for section in sections]


def _headline(result: PlasticityResult) -> dict[str, KeyFigure]:
    last = max(result.moments, key=lambda moment: moment.epoch)
    figures = {
        "base, last moment": KeyFigure(f"{last.accuracy.mean:.2f} %", f"after epoch {last.epoch} of {result.epochs}")
    }
    measured = [(cell.change.mean, cell) for cell in result.cells if cell.change is not None]
    for name, regrows in (("worst change", False), ("worst with regrowth", True)):
        changes = [(mean, cell) for mean, cell in measured if RULES[cell.rule].regrows == regrows]
        if changes:
            mean, cell = min(changes, key=lambda pair: pair[0])
            figures[name] = KeyFigure(
                f"{mean:+.2f} points", f"{RULES[cell.rule].scope}, share {cell.rate:g}, epoch {cell.epoch}"
            )
    figures["trainings"] = KeyFigure(f"{len(result.branches):,}", f"of {result.horizon} each")
    return figures


def _over_the_run(result: PlasticityResult) -> Section:
    explanation = Paragraph(
        f"At each moment the dense network is pruned and trains on for {result.horizon} at the learning rate of that "
        "moment, held constant, with the batches that the base sees next. A twin that is not pruned does the same. The "
        "change is the accuracy of the one minus that of the other: plasticity is high where it is near zero."
    )
    note = (
        "Change of accuracy against the unpruned twin by the epoch of pruning; dotted where each layer grew as many "
        "connections as it had lost, dashed upright where the learning rate drops to half or less between two moments"
        + ("; bars are the standard deviation over seeds." if len(result.seeds) > 1 else ".")
    )
    columns = ["rule", *(moment_title(moment) for moment in result.moments)]
    options = {
        f"{rate:g}": Plot(
            f"Pruning the share {rate:g}",
            change_figure(result, rate),
            note,
            Table(
                columns,
                [[rule, *_changes(result, rule, rate)] for rule in result.rules],
                f"Change in {UNIT} when the share {rate:g} is pruned",
                numbers=columns[1:],
            ),
        )
        for rate in reversed(result.rates)
    }
    return Section("Plasticity over the run", [explanation, Choice("Share pruned", options)])


def _heat_maps(result: PlasticityResult) -> Section:
    shared = Paragraph(
        f"Change of accuracy against the unpruned twin in {UNIT}; lr is the learning rate. Brown is worse than the "
        "twin, blue better. All maps share one scale; its colours follow the square root of the change, so that small "
        "changes are seen beside large ones."
    )
    return Section("Heat maps", [shared, *(_map_of(result, rule) for rule in result.rules)])


def _map_of(result: PlasticityResult, rule: str) -> Plot:
    columns = ["share pruned", *(moment_title(moment) for moment in result.moments)]
    rows = [[f"{rate:g}", *_changes(result, rule, rate)] for rate in result.rates]
    summary = RULES[rule].summary
    note = f"{summary[0].upper()}{summary[1:]}."
    table = Table(columns, rows, f"Change in {UNIT}, {rule}", numbers=columns[1:])
    return Plot(rule, heat_map(result, rule), note, table)


def _by_learning_rate(result: PlasticityResult) -> Section:
    levels = result.learning_rates()
    columns = ["rule", "share pruned", *(f"learning rate {level:.3g}" for level in levels)]
    rows = []
    for rule, rate in product(result.rules, result.rates):
        means = result.mean_changes(rule, rate)
        rows.append([rule, f"{rate:g}", *(_signed(means[level]) if level in means else None for level in levels)])
    caption = f"Change in {UNIT}, averaged over the moments with one learning rate"
    if len(result.seeds) > 1:
        caption += ", ± the standard deviation of that over seeds"
    table = Table(columns, rows, caption, numbers=columns[1:])
    return Section("By learning rate", [table])


def _base(result: PlasticityResult) -> Section:
    rows = [
        [
            str(moment.epoch),
            f"{100 * moment.share:.0f} %",
            f"{moment.learning_rate:.3g}",
            _accuracy(moment.accuracy),
            _accuracy(moment.twin_accuracy),
        ]
        for moment in result.moments
    ]
    columns = ["epoch", "of the run", "learning rate", "base", f"twin, {result.horizon} later"]
    settings = {
        "recipe": result.recipe,
        "network": result.model,
        "data": f"{result.data}, {result.evaluated_on} images",
        "base": f"{result.epochs} epochs, dense",
        "seeds": ", ".join(str(seed) for seed in result.seeds),
        "trained on": f"{result.horizon} ({result.horizons[result.horizon]:,} optimizer steps)",
    }
    return Section(
        "The base",
        [Table(columns, rows, "Accuracy of the base and of its unpruned twins", numbers=columns), Pairs(settings)],
    )


def _branches(result: PlasticityResult) -> Section:
    columns = [
        "rule",
        "share pruned",
        "epoch",
        "seeds",
        "held at zero",
        "by pruning",
        "accuracy",
        "against twin",
        "against base",
    ]
    rows = [
        [
            cell.rule,
            f"{cell.rate:g}",
            str(cell.epoch),
            str(len(cell.changes)),
            f"{100 * cell.sparsity:.2f} %",
            _signed(cell.drop),
            _accuracy(cell.accuracy),
            _signed(cell.change),
            _signed(cell.gain),
        ]
        for cell in result.cells
    ]
    explanation = Paragraph(
        "Held at zero is the share of weights that could not train on; it is 0 where all of them grew back. By pruning "
        "is the change before any training on; against base compares the end with the base before it was pruned, which "
        "is how the paper measures plasticity."
    )
    table = Table(columns, rows, f"Accuracy in per cent, changes in {UNIT}", numbers=columns[1:])
    return Section("All branches", [explanation, table])


def _seeds(result: PlasticityResult) -> str:
    return f"{len(result.seeds)} seeds" if len(result.seeds) > 1 else "1 seed"


def _changes(result: PlasticityResult, rule: str, rate: float) -> list[str | None]:
    """The change at each moment; None where this was not trained."""
    cells = [result.find(moment.epoch, rule, rate) for moment in result.moments]
    return [_signed(cell.change) if cell is not None else None for cell in cells]


def _signed(change: Spread | None) -> str:
    return DIVERGED if change is None else f"{change.mean:+.2f}{_deviation(change)}"


def _accuracy(accuracy: Spread | None) -> str:
    return DIVERGED if accuracy is None else f"{accuracy.mean:.2f}{_deviation(accuracy)} %"


def _deviation(value: Spread) -> str:
    return f" ± {value.deviation:.2f}" if value.deviation is not None else ""
