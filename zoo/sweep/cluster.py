"""Ray: started here or found at an address, silent, its cores and GPUs divided among trials."""

import importlib.util
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from zoo.errors import UserError
from zoo.files.access import write_text
from zoo.files.locks import hold
from zoo.sweep.stop import kept

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_WARN_THRESHOLD_S": "1000000",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
IMPATIENT = {
    "RAY_py_gcs_connect_timeout_s": "5",
    "RAY_gcs_rpc_server_connect_timeout_s": "2",
    "RAY_NUM_REDIS_GET_RETRIES": "1",
}
"""How soon a driver that joins a cluster gives up: where something else answers, Ray would try for
minutes."""
STORE = 80_000_000
"""Bytes of Ray's object store, which holds next to nothing here; Ray takes at least 75 MiB."""
SECONDS = 30.0
"""How long to wait for a cluster's answer."""
PROBE = (
    "import ray, sys; ray.init(address=sys.argv[1], logging_level='CRITICAL', log_to_driver=False)"
)
TOKEN = ".zoo-sweep"
"""A file in the sweep's folder, by which a node knows that it sees the same one."""
PREFIX, MARK = "zoo-sweep-", "ray-of-zoo-sweep"
"""How the name of Ray's own folder begins, and a file in it: no other folder is removed."""


@dataclass(frozen=True)
class Cluster:
    """Describe Ray as it runs.

    Args:
        nodes: each node's CPU and GPU.
        scratch: a folder for what Ray writes.
    """

    nodes: list[dict[str, float]]
    scratch: Path


@dataclass(frozen=True)
class Share:
    """Describe what a trial gets of a machine.

    Args:
        resources: cpu and gpu, as Ray counts them.
        threads: how many a trial on the CPU has; None with a GPU.
        limit: how many trials run at a time.
    """

    resources: dict[str, float]
    threads: int | None
    limit: int


def share(nodes: list[dict[str, float]], per_device: int | None) -> Share:
    """Divide nodes among trials.

    Args:
        nodes: each node's CPU and GPU, as Ray counts them.
        per_device: how many trials share a device: a GPU, by default 1, or where no node has one,
            all cores of a node, by default as many as there are cores.

    Raises:
        UserError: if there is neither.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        each = per_device or 1
        return Share({"cpu": 0, "gpu": math.floor(1e4 / each) / 1e4}, None, gpus * each)
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cores:
        raise UserError(
            "the cluster has no cores that Ray may use: start a node with ray start --num-cpus"
        )
    if per_device is None:
        return Share({"cpu": 1}, 1, sum(cores))
    threads = max(1, min(cores) // per_device)
    room = threads if per_device <= min(cores) else math.floor(1e4 * min(cores) / per_device) / 1e4
    return Share({"cpu": room}, threads, per_device * len(cores))


@contextmanager
def connected(address: str | None, out: Path, there: str) -> Iterator[Cluster]:
    """Have Ray run, started here or found at an address.

    Args:
        address: `HOST:PORT` of a cluster that this machine is a node of, or `auto`.
        out: the sweep's folder, which all nodes must see.
        there: the current folder, which all nodes must see as well.

    Raises:
        UserError: if Ray does not start, the cluster does not answer, or a node does not see the
            folders.
    """
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    _remove_left()
    folder, held = _scratch()
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": STORE,
            "_temp_dir": str(folder),
        }
    else:
        options["address"] = address
    try:
        try:
            with kept():
                ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            why = " ".join(str(error).split(". ")[0].split())
            raise UserError(
                f"Ray does not start{f' at {address}' if address else ''}: {why}"
            ) from error
        if address is not None:
            _check_nodes(ray, out, there)
        yield Cluster([node["Resources"] for node in ray.nodes() if node["Alive"]], folder)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def prepare(address: str | None) -> None:
    """Have Ray be silent and quick to give up, which it has to know before it is imported.

    Args:
        address: of a cluster, if one is to be joined.

    Raises:
        UserError: naming the extra, if Ray Tune is not installed; or if no cluster answers at the
            address.
    """
    os.environ.update(QUIET if address is None else QUIET | IMPATIENT)
    if not all(map(importlib.util.find_spec, ("ray", "pyarrow"))):
        raise UserError("a sweep needs Ray Tune, which is not installed: pip install -e '.[sweep]'")
    if address is not None:
        _check_address(address)


def _scratch() -> tuple[Path, int | None]:
    """Make a folder for Ray, whose name is short, as sockets lie in it, and lock it.

    Returns:
        The folder, and a file descriptor that holds its lock as long as this process lives.

    Raises:
        UserError: if it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        held = hold(folder)  # before it bears the mark of what may be removed
        (folder / MARK).touch()
    except OSError as error:
        raise UserError(
            f"cannot write '{tempfile.gettempdir()}': {error.strerror}; set TMPDIR to another "
            "folder"
        ) from None
    return folder, held


def _remove_left() -> None:
    """Remove what Ray had written for sweeps that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if not (folder / MARK).is_file():  # a folder of the user's
            continue
        number = hold(folder)
        if number is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(number)


def _check_address(address: str) -> None:
    """Find out in another process whether a cluster answers, and whether it wants the user's token.

    Raises:
        UserError: if none does.
    """
    none = f"no Ray cluster answers at {address}"
    remedy = "start one with ray start --head, or leave --ray-address out"
    if address != "auto":
        host, colon, port = address.rpartition(":")
        if "/" in address or not (colon and host and port.isdigit()):
            raise UserError(
                "--ray-address takes HOST:PORT of the cluster's head, as 10.0.0.1:6379, or auto, "
                f"got {address!r}"
            )
        try:
            socket.create_connection((host, int(port)), 5).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"{none} ({getattr(error, 'strerror', None) or error}): {remedy}"
            ) from None
    for mode in ({}, {"RAY_AUTH_MODE": "token"}) if "RAY_AUTH_MODE" not in os.environ else ({},):
        command = [sys.executable, "-P", "-c", PROBE, address]
        with suppress(subprocess.TimeoutExpired):
            if not subprocess.run(
                command, env=os.environ | mode, capture_output=True, timeout=SECONDS, check=False
            ).returncode:
                os.environ.update(mode)
                return
    raise UserError(f"{none}: {remedy}")


def _check_nodes(ray: Any, out: Path, there: str) -> None:
    """Have each node look for what this one has written, and for zoo.

    Raises:
        UserError: naming the first node that lacks something.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = out / TOKEN
    token.unlink(missing_ok=True)  # it may be a link
    write_text(token, str(os.getpid()))

    def sees() -> str | None:
        if importlib.util.find_spec("zoo") is None:
            return "has no zoo: install it there"
        if not token.is_file() or token.read_text(encoding="ascii", errors="replace") != str(pid):
            return f"does not see '{out}': give an --out in a folder that all nodes share"
        return (
            None
            if os.path.isdir(there)
            else f"has no folder '{there}': start the sweep in one that all nodes share"
        )

    pid = os.getpid()
    try:
        for node in ray.nodes():
            if node["Alive"]:
                where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=where)(sees)
                if wrong := ray.get(task.remote(), timeout=60):
                    raise UserError(f"node {node['NodeManagerAddress']} {wrong}")
    finally:
        token.unlink(missing_ok=True)


@contextmanager
def silence() -> Iterator[tuple[TextIO, TextIO]]:
    """Send what Ray prints, from its own processes too, nowhere.

    Yields:
        This command's own output and error streams.
    """
    with ExitStack() as stack:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        for stream in saved:
            stack.callback(os.close, stream)
        ours = [
            stack.enter_context(
                os.fdopen(os.dup(copy), "w", encoding=stream.encoding, errors=stream.errors)
            )
            if _is(stream, number)
            else stream
            for copy, number, stream in zip(saved, (1, 2), (sys.stdout, sys.stderr), strict=True)
        ]
        nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        for copy, number in zip(saved, (1, 2), strict=True):
            os.dup2(nothing.fileno(), number)
            stack.callback(os.dup2, copy, number)
        with redirect_stdout(nothing), redirect_stderr(nothing):
            yield ours[0], ours[1]


def _is(stream: TextIO, number: int) -> bool:
    """Say whether a stream writes to a file descriptor, as it does not where a test captures it."""
    try:
        return stream.fileno() == number
    except (OSError, ValueError):
        return False
