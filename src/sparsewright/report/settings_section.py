"""What decided the numbers of a run: recipe, settings and versions."""

from __future__ import annotations

from sparsewright.report.page import Block, Code, Pairs, Paragraph, Section
from sparsewright.report.run_data import RunData
from sparsewright.report.run_facts import published_sentence


def settings_section(run: RunData) -> Section:
    """The recipe as it was resolved, what was set besides it, and the versions."""
    blocks: list[Block] = [Pairs({**_settings(run), **_versions(run)})]
    if run.published is not None:
        blocks.append(Paragraph(f"{published_sentence(run.published)}."))
    blocks.append(Paragraph("The recipe with everything that it inherits, as recipe.yaml in the run folder has it:"))
    blocks.append(Code(run.recipe_text.rstrip("\n"), "recipe"))
    return Section("Recipe and versions", blocks)


def _settings(run: RunData) -> dict[str, str]:
    pairs = {"recipe": run.recipe.name}
    if run.recipe.summary:
        pairs["summary"] = run.recipe.summary
    if run.settings is None:
        return pairs
    settings = run.settings
    processes = "" if settings.world_size == 1 else f", {settings.world_size} processes"
    threads = f"{settings.threads} thread{'' if settings.threads == 1 else 's'}"
    pairs |= {
        "seed": f"{settings.seed}",
        "precision": "32 bits" if settings.precision == "32" else settings.precision,
        "device": f"{settings.device}{processes}, {threads}",
    }
    start = settings.start
    for name, value in (("weights from", start.weights), ("masks from", start.masks)):
        if value is not None:
            pairs[name] = value
    if start.step:
        pairs["started at step"] = f"{start.step:,}"
    if start.stop is not None:
        pairs["stopped before step"] = f"{start.stop:,}"
    return pairs


def _versions(run: RunData) -> dict[str, str]:
    return dict(run.summary.get("versions", {})) if run.summary is not None else {}
