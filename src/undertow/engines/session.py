"""A Ray to run on: the cluster that is named, the one of this process, or a small one of our own on loopback."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from undertow.errors import GuardError

_OBJECT_STORE = 512 << 20
_KNOCK_SECONDS = 10.0
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Otherwise every worker that dies is told of on standard output.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
_ALONE = {
    # Ray listens on every address and runs what it is sent; one of our own stays on loopback and wants a token.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}


@contextmanager
def running_ray(workers: int | None, address: str | None) -> Iterator[tuple[int, str]]:
    """A running Ray; what was started for it is stopped at the end.

    Args:
        workers: how many there are to be, or None for one a device.
        address: of a cluster, where this process has no Ray yet; None takes the Ray of this process where there is one,
            and else starts one.

    Yields:
        The number of workers and the kind of device that each gets, "GPU" or "CPU".

    Raises:
        GuardError: Ray cannot be reached or started, has too few devices, or an address is given and runs already.
    """
    found = sys.modules.get("ray")
    if found is not None and found.is_initialized():
        if address is not None:
            raise GuardError(
                f"Ray runs in this process already, so {address} is not asked; leave the address out to use that Ray, "
                "or end it with ray.shutdown()."
            )
        with _environment(_QUIET):
            yield devices(workers, found.cluster_resources())
        return
    if address is not None:
        _knock(address)
    with _environment({**_QUIET, **({} if address is not None else _alone())}), _folder() as folder:
        import ray
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is not None:
            options["address"] = address
        else:
            # One core more than there are workers: the reader must find a place beside them.
            options |= {"num_cpus": (workers or os.cpu_count() or 1) + 1, "include_dashboard": False}
            options |= {"object_store_memory": _OBJECT_STORE, "_temp_dir": folder}
        try:
            _start(options)
            yield devices(workers, ray.cluster_resources())
        finally:
            ray.shutdown()


def _start(options: Mapping[str, Any]) -> None:
    import ray

    try:
        with _muted():
            ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        where = f"be reached at {options['address']}" if "address" in options else "be started here"
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise GuardError(f"Ray cannot {where}: {reason}.") from error


@cache
def _alone() -> Mapping[str, str]:
    """What keeps strangers away from a Ray of our own.

    Ray reads this once, when it is imported, so it is the same for the life of this process, and comes too late where
    somebody has imported Ray before.
    """
    return {} if "ray" in sys.modules else _ALONE | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _knock(address: str) -> None:
    """Refuse an address where nobody listens, which Ray would try for minutes; raises GuardError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise GuardError(f"Ray cannot be reached at {address}: {error}.") from None


def devices(workers: int | None, resources: Mapping[str, float]) -> tuple[int, str]:
    """How many workers there will be and on what; raises GuardError where Ray has not so many devices."""
    kind = "GPU" if resources.get("GPU", 0) >= 1 else "CPU"
    # The reader takes one core.
    most = int(resources.get(kind, 0)) - (1 if kind == "CPU" else 0)
    if most < 1 or (workers or 1) > most:
        named = "GPUs" if kind == "GPU" else "cores beside the reader's"
        raise GuardError(f"Ray has {max(most, 0)} {named}, which is too few for {workers or 1} workers.")
    return workers or most, kind


@contextmanager
def _folder() -> Iterator[str]:
    """A temporary folder whose name is short: sockets' paths have 107 bytes, and most of them are Ray's own."""
    usual = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="undertow-ray-", dir="/tmp" if len(usual) > 20 and os.path.isdir("/tmp") else None)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while, where the user has not set them otherwise."""
    new = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in new})
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextmanager
def _muted() -> Iterator[None]:
    """Standard error closed to everything, Ray's own code in C++ included, which announces its log level there."""
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
