"""The machines of a run: Dask's scheduler and client here, its workers there, and the tasks that are spread over them."""

import hashlib
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ..errors import ClusterError, DiffucoderError
from .hostfile import LOOPBACK, Host, read_hosts
from .processes import ANSWERS, check_versions, started
from .worker import versions

if TYPE_CHECKING:
    from distributed import Client, Future

STALL = 30.0
"""Seconds without a sign of life after which a worker's tasks go to the others. Dask's least is 5."""
POLL = 1.0
"""Seconds between two looks at which workers are there."""
SHARED = "diffucode"
"""What `Machines.share` gives is kept by the scheduler under this name."""

Call = Callable[[], Any]


class Machines:
    """The workers that tasks are spread over.

    Attributes:
        counts: the tasks that each machine has done, by its name.
    """

    def __init__(self, client: "Client", say: Callable[[str], None]):
        self.counts = Counter[str](self._names(client).values())
        self.counts.subtract(list(self.counts.elements()))
        self._client, self._say, self._there = client, say, self._names(client)
        self._shared = ""

    def __str__(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in self.counts.items())

    def results(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """Call each on some machine. Yields the place of each in the sequence, and its result, as they come.

        Args:
            calls: functions of this package with their arguments, as `functools.partial` holds them.

        Raises:
            ClusterError: no machine is left, or one could not do a task; the message names it.
        """
        done: SimpleQueue[Future[Any]] = SimpleQueue()
        futures = self._client.map(_on_machine, [_Sent(call) for call in calls], pure=False)
        places = {future.key: place for place, future in enumerate(futures)}
        waiting = {future.key: future for future in futures}
        del futures
        for future in waiting.values():
            future.add_done_callback(done.put)
        looked = time.monotonic()
        try:
            while waiting:
                with suppress(Empty, TimeoutError):
                    future = done.get(timeout=POLL)
                    name, result = self._result(future, done)
                    del waiting[future.key]
                    self.counts[name] += 1
                    yield places[future.key], result
                if time.monotonic() - looked >= POLL or not waiting:
                    self._look(waiting=bool(waiting))
                    looked = time.monotonic()
        finally:
            with suppress(Exception):  # the scheduler may be gone
                self._client.cancel(list(waiting.values()), force=True)

    def share(self, data: bytes) -> str:
        """Give every worker bytes, which a task gets by their digest from `shared`. What was given before is dropped.

        They come from the scheduler, not from other workers, which cannot always be reached.
        """
        digest = hashlib.sha256(data).hexdigest()
        for name, value in ((self._shared, None), (digest, data)):
            if name:
                with _scheduler_there():
                    self._client.set_metadata([SHARED, name], value)
        self._shared = digest
        return digest

    def _result(self, future: "Future[Any]", done: "SimpleQueue[Future[Any]]") -> Any:
        """What a task returned. A worker that dies before it has sent that does the task again elsewhere."""
        from distributed import CancelledError
        from distributed.scheduler import KilledWorker

        try:
            return future.result(timeout=POLL)
        except TimeoutError:
            done.put(future)
            raise
        except KilledWorker:
            raise ClusterError("a task has ended the workers of several machines; run it on one, without --cluster") from None
        except CancelledError:
            raise ClusterError("the scheduler of the cluster has ended; run the same command again to continue") from None

    def _look(self, *, waiting: bool) -> None:
        """Tell which machines are gone since the last look. It is an error if none is left while tasks wait."""
        with _scheduler_there():
            now = self._names(self._client)
        for address, name in self._there.items():
            if address not in now:
                self._say(f"{name} no longer answers; its tasks go to the other machines")
        self._there = now
        if waiting and not now:
            raise ClusterError("no machine of the cluster is left; with --out the same command continues where this one stopped")

    @staticmethod
    def _names(client: "Client") -> dict[str, str]:
        """The name of each worker, by its address."""
        return {address: str(one["name"]) for address, one in _workers(client).items()}


def _workers(client: "Client") -> dict[str, Any]:
    """What the scheduler knows of each worker, by its address. Raises `OSError` if the scheduler is gone.

    Not `Client.scheduler_info`: now and then a thread of the client's puts an empty answer in place of the one asked for.
    """
    return client.sync(client.scheduler.identity)["workers"]


@contextmanager
def _scheduler_there() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise ClusterError("the scheduler of the cluster has ended; run the same command again to continue") from None


def shared(digest: str) -> bytes:
    """On a worker, the bytes that the first machine gave to `Machines.share`."""
    from distributed import get_worker
    from distributed.utils import sync

    worker = get_worker()
    data = sync(worker.loop, worker.scheduler.get_metadata, keys=[SHARED, digest], default=None)
    if data is None:
        raise ClusterError("the first machine does not give its weights any more")
    return bytes(data)


class _Sent:
    """A call that Dask sends as it is, without a look at what is in it."""

    def __init__(self, call: Call):
        self.call = call


def _on_machine(sent: _Sent) -> tuple[str, Any]:
    """Call a function on a worker. Returns the worker's name and the result."""
    from distributed import get_worker

    name = str(get_worker().name)
    try:
        return name, sent.call()
    except DiffucoderError as error:
        raise ClusterError(f"{name}: {error}") from None


@contextmanager
def open_machines(where: str, say: Callable[[str], None]) -> Iterator[Machines]:
    """The workers of a running cluster, or those that are started on the machines of a hostfile and end with the context.

    Args:
        where: `tls://HOST:PORT` of Dask's scheduler (`tcp://` on loopback only), or the path of a hostfile.
        say: prints a line about a machine that is gone.

    Raises:
        ClusterError: the file is no hostfile, a machine cannot be reached or has other versions, or the packages of the extra
            `cluster` are missing.
    """
    address = _checked(where) if "://" in where else None
    hosts = [] if address else read_hosts(Path(where))
    for package in ("distributed", "cryptography"):  # with the second Dask makes the keys of a run
        if find_spec(package) is None:
            raise ClusterError(
                f'--cluster needs the package {package}; install it: pip install "mlx-diffucoder[cluster]"', field="--cluster"
            )
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        client = stack.enter_context(_running(address) if address else _own(hosts))
        machines = Machines(client, say)
        yield machines
        if machines.counts.total():
            say(f"tasks done: {machines}")


def _checked(address: str) -> str:
    found = re.fullmatch(r"(tls|tcp)://(?:\[([^]]+)\]|([^:/]+)):\d+", address)
    if not found:
        raise ClusterError(f"--cluster {address}: an address is tls://HOST:PORT", field="--cluster")
    if found[1] == "tcp" and (found[2] or found[3]) not in LOOPBACK:
        raise ClusterError(f"--cluster {address}: is not encrypted; use tls:// beyond this machine", field="--cluster")
    return address


@contextmanager
def _running(address: str) -> "Iterator[Client]":
    """A client of a scheduler that runs, whose workers have one thread and the versions of this machine."""
    from distributed import Client

    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ClusterError(f"--cluster {address}: no scheduler answers there ({reason})", field="--cluster") from None
    with client:
        workers = _workers(client)
        if not workers:
            raise ClusterError(f"{address}: has no workers; start one: dask worker {address} --nthreads 1 --memory-limit 0")
        for worker in workers.values():
            if worker["nthreads"] != 1:
                raise ClusterError(f"{worker['name']}: has {worker['nthreads']} threads; start it with --nthreads 1")
        for worker, there in client.run(versions, on_error="return").items():
            check_versions(str(workers[worker]["name"]), there if isinstance(there, dict) else {})
        yield client


@contextmanager
def _own(hosts: Sequence[Host]) -> "Iterator[Client]":
    """A client of a scheduler in this process, whose workers are started on these machines."""
    import dask
    from distributed import Client, LocalCluster, Security

    with ExitStack() as stack:
        processes = stack.enter_context(started(hosts))
        stack.enter_context(dask.config.set({"distributed.scheduler.worker-ttl": f"{STALL}s"}))
        keys = Security.temporary()
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=0,
                host="127.0.0.1" if all(host.here for host in hosts) else "0.0.0.0",
                protocol="tls",
                security=keys,
                dashboard_address="127.0.0.1:0",  # it has no TLS
                silence_logs=logging.CRITICAL,
            )
        )
        tls = {name: getattr(keys, name) for name in ("tls_ca_file", "tls_worker_key", "tls_worker_cert")}
        # A worker is a client, too, where it asks another one for something.
        tls |= {"tls_client_key": keys.tls_worker_key, "tls_client_cert": keys.tls_worker_cert}
        for one in processes:
            one.begin({"port": int(cluster.scheduler_address.rpartition(":")[2]), "tls": tls})
        client = stack.enter_context(Client(cluster, set_as_default=False))
        until, missing = time.monotonic() + 2 * ANSWERS, processes
        while missing:
            there = {one["name"] for one in _workers(client).values()}
            missing = [one for one in processes if one.host.name not in there]
            for one in missing:
                if one.ended:
                    raise one.failed("its worker has ended")
                if time.monotonic() > until:
                    raise ClusterError(
                        f"{one.host.name}: cannot connect to this machine; allow incoming connections for Python in its firewall"
                    )
            time.sleep(0.05)
        yield client
