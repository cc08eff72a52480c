"""What every study leaves in its folder, and what it says about the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from undertow.errors import UndertowError
from undertow.measure.finding import Claim, Finding, write_findings
from undertow.measure.storage import write_atomically

if TYPE_CHECKING:
    from undertow.model import ChatModel

FINDINGS, REPORT = "findings.json", "report.html"


class Page(Protocol):
    """A report that is ready to be written."""

    def html(self) -> str:
        """The page as one file."""
        ...

    def figure_data(self) -> Mapping[str, Any]:
        """The numbers behind each figure, by its name."""
        ...


def study_folder(output: str | Path, *, overwrite: bool) -> Path:
    """The absolute folder of a study's files; nothing is made.

    Raises:
        UndertowError: it is a file, or holds a study already and must not be overwritten.
    """
    folder = Path(output).expanduser().absolute()
    taken = [name for name in (FINDINGS, REPORT) if (folder / name).exists()]
    if folder.is_file() or (taken and not overwrite):
        raise UndertowError(f"{folder} exists already; name another output or add --overwrite.")
    return folder


def write_study(
    folder: Path,
    page: Page | None,
    *,
    findings: Sequence[Finding],
    rules: Mapping[str, Claim],
    run: Mapping[str, Any],
) -> None:
    """Write `report.html` and then `findings.json`, so that where the findings are new everything else is.

    Args:
        folder: from `study_folder`.
        page: the report, or None for none.
        findings, rules, run: see `write_findings`.
    """
    html = None if page is None else page.html()
    folder.mkdir(parents=True, exist_ok=True)
    if html is not None:
        write_atomically(folder / REPORT, html)
    write_findings(
        folder / FINDINGS, findings, rules=rules, figures=None if page is None else page.figure_data(), run=run
    )


def about_model(chat: ChatModel) -> dict[str, Any]:
    """Which model was run, on what: for a run's metadata."""
    import sys

    import numpy
    import sklearn
    import torch
    import transformers

    from undertow import __version__

    return {
        "model": chat.identity.name,
        "revision": chat.identity.revision,
        "fingerprint": chat.identity.fingerprint,
        "undertow": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": numpy.__version__,
        "threads": torch.get_num_threads(),
        "dtype": str(chat.dtype).removeprefix("torch."),
    }
