"""Measure one tool on one task in this process: ``python measure.py TOOL TASK MATERIAL --json FILE``.

Order: load the tool's model, warm up on one short prompt, measure the peak of resident memory over what is loaded,
check the result, and only then time it by turns with the bare pass, on the transformers model inside the tool where it
has one. With ``--beside`` Undertow is timed in the same turns where it can be imported.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import torch
from harness import TASKS, Action, Material


def tool_named(name: str) -> Any:
    """The module of a tool."""
    return importlib.import_module("with_" + name.replace("-", "_"))


def measure(tool: Any, task: str, variant: str, material: Material, repeats: int, beside: bool) -> dict[str, Any]:
    """Peak memory, difference and ratios."""
    model = tool.opened(material)
    tool.make(task, variant, model, material.small())()
    action = tool.make(task, variant, model, material)
    found, peak = harness.peak_growth(action)
    checked = getattr(tool, "CHECKED", True)
    result: dict[str, Any] = {
        "peak": peak,
        "difference": harness.difference(task, found, material, tool) if checked else 0.0,
    }
    del found
    if result["difference"] > harness.TOLERANCE or repeats == 0:
        return result
    # The same weights where the tool lets go of them: two copies of a model differ by some percent in speed alone.
    within: Callable[[Any], Any] = getattr(tool, "inner", lambda model: harness.plain_model(material.folder))
    actions: dict[str, Action] = {"bare": harness.bare(task, within(model), material)}
    actions["tool"] = action
    plain: Callable[..., Action | None] = getattr(tool, "plain", lambda *arguments: None)
    own = plain(task, model, material)
    if own is not None:
        actions["own"] = own
    if beside:
        undertow = tool_named("undertow")
        actions["undertow"] = undertow.make(task, "", undertow.opened(material), material)
    seconds = harness.interleaved(actions, repeats)
    result["seconds"] = {name: harness.median(values) for name, values in seconds.items()}
    result["ratios"] = harness.paired(seconds, "tool", "bare")
    if own is not None:
        result["own"] = harness.paired(seconds, "tool", "own")
    if beside:
        result["beside"] = harness.paired(seconds, "tool", "undertow")
        result["undertow"] = harness.paired(seconds, "undertow", "bare")
    return result


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("tool")
    flags.add_argument("task", choices=TASKS)
    flags.add_argument("material", type=Path)
    flags.add_argument("--variant", default="")
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--repeats", type=int, default=5, help="0 measures memory and checks only")
    flags.add_argument("--beside", action="store_true")
    flags.add_argument("--json", type=Path, required=True)
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    material = Material.load(arguments.material)
    try:
        result = measure(
            tool_named(arguments.tool), arguments.task, arguments.variant, material, arguments.repeats, arguments.beside
        )
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(f"{arguments.tool} {arguments.task}: {type(error).__name__}: {lines[0]}", file=sys.stderr)
        result = {"failed": f"{type(error).__name__}: {lines[0][:160]}"}
    arguments.json.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
