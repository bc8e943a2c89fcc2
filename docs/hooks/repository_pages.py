"""Gives the pages of the site their paths in the repository, and takes in the pages that stand beside docs/.

mkdocs knows pages by their paths below docs/, where a link such as ``../results/greg.md`` leads out of the site. By
their paths in the repository, the relative links that work on a code host work here, and a strict build checks them.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCS, RESULTS = PurePosixPath("docs"), PurePosixPath("results")
BESIDE_DOCS = ("CHANGELOG.md", "CONTRIBUTING.md")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts every page of results/ into the navigation."""
    section = next(entry["Results"] for entry in config.nav or [] if "Results" in entry)
    section += [{short_title(page): str(RESULTS / page.name)} for page in sorted((ROOT / RESULTS).glob("*.md"))]
    return config


def short_title(page: Path) -> str:
    """The heading of a page, its first line, without what follows a colon."""
    heading = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return heading.partition(":")[0]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/ under their paths in the repository, those of results/, and single pages of the root."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
        files.append(_file(DOCS / file.src_uri, PurePosixPath(file.dest_uri), config))
    for name in sorted(path.name for path in (ROOT / RESULTS).iterdir() if path.is_file()):
        files.append(_file(RESULTS / name, _place_of_result(RESULTS / name), config))
    for name in BESIDE_DOCS:
        files.append(_file(PurePosixPath(name), PurePosixPath(name.lower()).with_suffix(".html"), config))
    return files


def _place_of_result(source: PurePosixPath) -> PurePosixPath:
    # A page NAME.md may stand beside a report NAME.html.
    return source.with_suffix("") / "index.html" if source.suffix == ".md" else source


def _file(source: PurePosixPath, target: PurePosixPath, config: MkDocsConfig) -> File:
    return File(str(source), str(ROOT), config.site_dir, use_directory_urls=False, dest_uri=str(target))
