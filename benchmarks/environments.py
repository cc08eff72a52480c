"""Make the peers' own environments: ``python benchmarks/environments.py [NAME ...]`` -> ``build/peers/NAME``.

Every peer gets an environment of its own because their requirements contradict each other. An environment that is
complete is left alone; a peer that cannot be installed leaves the reason in ``build/peers/NAME.failed``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "peers"
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Environment:
    """What one peer is installed from.

    Attributes:
        requirements: pins, installed after torch and never together with another peer's.
        reason: why these pins.
        beside: whether Undertow fits in the same environment, so that both can be timed in one process.
    """

    requirements: tuple[str, ...]
    reason: str
    beside: bool


ENVIRONMENTS = {
    "nnsight": Environment(("nnsight==0.8.1",), "newest; nnterp 1.3 would need an older one and is not needed", True),
    "transformer-lens": Environment(("transformer-lens==4.3.0",), "newest; only TransformerBridge is left in it", True),
    "interp-engine": Environment(("interp-engine==1.14.2",), "newest; without its vllm extra, which needs a GPU", True),
    "steering-vectors": Environment(
        ("steering-vectors==0.12.2",), "newest; wants transformers below 5, which Undertow does not run on", False
    ),
    "repeng": Environment(("repeng==0.4.0",), "newest; wants numpy below 2", True),
}


def interpreter(name: str) -> Path:
    """The Python of an environment."""
    return FOLDER / name / "bin" / "python"


def stamp(name: str) -> Path:
    """The file that says an environment is complete, and of what."""
    return FOLDER / name / "complete.json"


def failure(name: str) -> str | None:
    """Why an environment could not be made, or None."""
    path = FOLDER / f"{name}.failed"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def make(name: str) -> bool:
    """Make one environment; True if it stands afterwards."""
    environment = ENVIRONMENTS[name]
    wanted = [TORCH, *environment.requirements, *(["undertow"] if environment.beside else [])]
    if stamp(name).is_file() and json.loads(stamp(name).read_text(encoding="utf-8"))["requirements"] == wanted:
        return True
    start = time.perf_counter()
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.failed").unlink(missing_ok=True)
    venv.EnvBuilder(with_pip=True, clear=True).create(FOLDER / name)
    steps = [[TORCH], [TORCH, *environment.requirements]]
    if environment.beside:
        steps.append([TORCH, *environment.requirements, "-e", str(ROOT)])
    for step in steps:
        command = [str(interpreter(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *step]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            (FOLDER / f"{name}.failed").write_text(lines[-1].removeprefix("ERROR: ") + "\n", encoding="utf-8")
            print(f"{name}: {lines[-1]}", file=sys.stderr)
            return False
    stamp(name).write_text(json.dumps({"requirements": wanted}) + "\n", encoding="utf-8")
    print(f"{name}: {FOLDER / name}, {time.perf_counter() - start:.0f} s", flush=True)
    return True


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("names", nargs="*", default=[], help=f"of {', '.join(ENVIRONMENTS)}; all if none is given")
    names = flags.parse_args().names or list(ENVIRONMENTS)
    unknown = [name for name in names if name not in ENVIRONMENTS]
    if unknown:
        flags.error(f"no such peer: {', '.join(unknown)}")
    made = [make(name) for name in names]
    print(f"{sum(made)} of {len(made)} environments stand")


if __name__ == "__main__":
    main()
