"""Scans that are killed: run as a script, it forks one scan after another, kills each at random, and checks the rows.

Arguments: model folder, guard folder, prompt file, working folder, number of kills, seed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from undertow.guard import LatentGuard
from undertow.guard.scan import scan
from undertow.model import load


def in_a_child(task) -> int:
    """Fork, run the task, and leave without any cleaning up; the process id."""
    child = os.fork()
    if child:
        return child
    try:
        task()
    except BaseException as error:
        print(f"scan failed: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def main(model: str, guard_folder: str, prompts: str, work: str, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    guard = LatentGuard.from_pretrained(guard_folder, load(model))
    folder = Path(work)
    start = time.perf_counter()
    reference = scan(guard, prompts, folder / "reference.jsonl", batch_size=16, progress=False)
    duration = time.perf_counter() - start
    assert reference.resumed == 0
    scan(guard, prompts, folder / "reference.parquet", progress=False)
    generator = random.Random(seed)
    done = outputs = 0
    while done < kills:
        ending = ".parquet" if outputs % 3 == 2 else ".jsonl"
        output = folder / f"killed{outputs}{ending}"
        outputs += 1
        while True:
            batch_size = generator.choice([1, 3, 16, 64, 100])
            child = in_a_child(
                lambda size=batch_size, path=output: scan(guard, prompts, path, batch_size=size, progress=False)
            )
            deadline = time.perf_counter() + generator.uniform(0, duration / 3)
            ended = 0
            while done < kills and time.perf_counter() < deadline and not ended:
                ended, status = os.waitpid(child, os.WNOHANG)
                time.sleep(0.0005)
            if not ended:
                if done < kills:
                    os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                done += 1
                continue
            assert os.WEXITSTATUS(status) == 0
            break
        assert output.read_bytes() == (folder / f"reference{ending}").read_bytes(), f"{output} differs"
        assert not list(folder.glob(f"*{output.name}.rows*"))
        assert not list(folder.glob(f".{output.name}*"))
    print(f"{done} kills over {outputs} outputs of {reference.rows} rows")


if __name__ == "__main__":
    main(*sys.argv[1:5], *map(int, sys.argv[5:]))
