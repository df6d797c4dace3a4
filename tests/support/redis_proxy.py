"""A proxy between clients and a real Redis that answers with Redis' own errors, cuts and stalls.

It reads the protocol command by command, so that every reply belongs to its command, and behaves as a
server does around an error: a transaction with a refused command ends in EXECABORT, and a client that
leaves while it waits for a message takes none with it.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .ports import free_port

ERRORS = {
    "OOM": "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY": "READONLY You can't write against a read only replica.",
    "MISCONF": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist "
    "to disk. Commands that may modify the data set are disabled, because this instance is configured to "
    "report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please "
    "check the Redis logs for details about the RDB error.",
    "BUSY": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "LOADING": "LOADING Redis is loading the dataset in memory",
    "NOPERM": "NOPERM User bgpipe has no permissions to run the '{command}' command",
    "MASTERDOWN": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN": "CLUSTERDOWN The cluster is down",
    "NOSCRIPT": "NOSCRIPT No matching script. Please use EVAL.",
}
CUTS = ("cut-before", "cut-after", "cut-within", "stall")
"""The command never arrives; its reply is lost; half of its reply arrives; its reply is late."""
FAULTS = (*ERRORS, *CUTS)
SECONDS = 30.0
"""A connection of the proxy that takes longer is an error of the test."""

_REFUSES_WRITES = ("OOM", "READONLY", "MISCONF")
_READS = {
    *("PING", "HELLO", "CLIENT", "AUTH", "SELECT", "INFO", "CONFIG", "TIME", "SCRIPT"),
    *(
        "GET",
        "MGET",
        "EXISTS",
        "TYPE",
        "TTL",
        "PTTL",
        "SCAN",
        "STRLEN",
        "GETRANGE",
        "GETBIT",
        "BITCOUNT",
    ),
    *("HGET", "HMGET", "HGETALL", "HLEN", "HKEYS", "HEXISTS", "HSCAN", "LLEN", "LRANGE", "LINDEX"),
    *("SMEMBERS", "SISMEMBER", "SCARD", "ZSCORE", "ZCARD", "ZRANGE", "ZREVRANGE", "ZRANGEBYSCORE"),
    *("ZREVRANGEBYSCORE", "MULTI", "EXEC", "DISCARD", "UNWATCH", "WATCH", "MEMORY", "PUBLISH"),
    *("SUBSCRIBE", "PSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE"),
}
_NEVER_REFUSED = {"HELLO", "AUTH", "MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"}
_BLOCKING = {"BRPOP", "BLPOP", "BRPOPLPUSH", "BLMOVE", "BLMPOP", "BZPOPMIN"}
_SUBSCRIBES = {"SUBSCRIBE", "PSUBSCRIBE"}
_GREETINGS = {"HELLO", "CLIENT", "AUTH", "SELECT"}
"""Sent at each connection: a fault there hides those of the commands behind it from most tests."""

Command = tuple[str, bytes]
"""The name in capitals, and the bytes of the request."""


def applies(fault: str, command: str) -> bool:
    """Whether a real server could answer `command` with `fault`."""
    if fault == "NOSCRIPT":
        return command == "EVALSHA"
    if fault in _REFUSES_WRITES:
        return command not in _READS
    return fault not in ERRORS or command not in _NEVER_REFUSED


@dataclass
class FaultPlan:
    """Which commands meet a fault. Threads may change it while the proxy runs."""

    rate: float = 0.0
    """Share of all commands, each fault that applies as often as the others."""
    seed: int = 0
    stall: float = 1.0
    """Seconds by which a stalled reply is late."""
    command: str = ""
    """The command that `fault` answers; empty: all but the greetings."""
    fault: str = ""
    limit: int = 0
    """Number of commands that still meet `fault`; negative: all."""
    spared: Collection[str] = ()
    """Commands that the rate never meets."""
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of commands by name and fault, "" for those that passed."""

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)

    def answer(self, command: str, fault: str, limit: int = -1) -> None:
        """From now on answer `command` with `fault`, `limit` times."""
        self.limit = 0
        self.command, self.fault, self.limit = command, fault, limit

    def pass_all(self) -> None:
        self.limit, self.rate = 0, 0.0

    def next(self, command: str) -> str:
        """Return the fault that `command` meets, or an empty string."""
        fault = self._next(command)
        self.met[command, fault] += 1
        return fault

    def faults(self) -> Counter[str]:
        """Return the number of commands by the fault that they met."""
        faults: Counter[str] = Counter()
        for (_, fault), count in self.met.items():
            if fault:
                faults[fault] += count
        return faults

    def _next(self, command: str) -> str:
        if self.limit and self._is_meant(command):
            self.limit -= 1
            return self.fault
        if command not in self.spared and self._dice.random() < self.rate:
            return self._dice.choice([fault for fault in FAULTS if applies(fault, command)])
        return ""

    def _is_meant(self, command: str) -> bool:
        if self.command:
            return command == self.command
        return command not in _GREETINGS and applies(self.fault, command)


class RedisProxy:
    """Listens on `url` for clients of the server at `upstream_url`, in a thread of its own."""

    def __init__(self, upstream_url: str, plan: FaultPlan | None = None) -> None:
        self.plan = plan or FaultPlan()
        self._upstream = urlsplit(upstream_url)
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}{self._upstream.path}"
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="redis-proxy")

    def start(self) -> None:
        self._thread.start()
        assert self._listening.wait(SECONDS)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, limit=1 << 24)
        self._listening.set()
        await self._stopped.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that the proxy cut, or that left, is part of the exercise.
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            there = await asyncio.open_connection(
                self._upstream.hostname, self._upstream.port, limit=1 << 24
            )
            try:
                await _Connection(self.plan, reader, writer, *there).run()
            finally:
                there[1].close()
        writer.close()


class _Connection:
    """One client's connection, and the proxy's own to the server for it."""

    def __init__(
        self,
        plan: FaultPlan,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        self._plan = plan
        self._reader, self._writer = reader, writer
        self._server_reader, self._server_writer = server_reader, server_writer
        self._waiting: deque[Command | None] = deque()
        self._arrived = asyncio.Event()
        self._blocked = False
        self._in_transaction = self._aborted = False

    async def run(self) -> None:
        receiver = asyncio.create_task(self._receive())
        try:
            while (command := await self._next()) is not None:
                if command[0] in _SUBSCRIBES:
                    self._server_writer.write(command[1])
                    await self._forward_pushes()
                    return
                await self._perform(*command)
        finally:
            receiver.cancel()

    async def _receive(self) -> None:
        """Queue the client's commands; at its end, leave a wait of its behalf at once."""
        try:
            while True:
                self._put(await _read_command(self._reader))
        except (OSError, asyncio.IncompleteReadError):
            if self._blocked:
                self._server_writer.close()
            self._put(None)

    def _put(self, command: Command | None) -> None:
        self._waiting.append(command)
        self._arrived.set()

    async def _next(self) -> Command | None:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    async def _perform(self, name: str, request: bytes) -> None:
        fault = self._plan.next(name)
        if fault in ERRORS:
            self._aborted |= self._in_transaction
            text = ERRORS[fault].format(command=name.lower())
            await self._reply(f"-{text}\r\n".encode())
        elif fault == "cut-before":
            self._cut()
        elif name == "EXEC" and self._aborted:
            await self._ask(b"*1\r\n$7\r\nDISCARD\r\n")
            self._in_transaction = self._aborted = False
            await self._reply(b"-EXECABORT Transaction discarded because of previous errors.\r\n")
        else:
            self._note_transaction(name)
            self._blocked = name in _BLOCKING
            reply = await self._ask(request)
            self._blocked = False
            await self._answer(reply, fault)

    def _note_transaction(self, name: str) -> None:
        if name == "MULTI":
            self._in_transaction, self._aborted = True, False
        elif name in {"EXEC", "DISCARD"}:
            self._in_transaction = False

    async def _ask(self, request: bytes) -> bytes:
        self._server_writer.write(request)
        await self._server_writer.drain()
        return await _read_reply(self._server_reader)

    async def _answer(self, reply: bytes, fault: str) -> None:
        if fault == "cut-after":
            self._cut()
        if fault == "cut-within":
            await self._reply(reply[: len(reply) // 2])
            self._cut()
        if fault == "stall":
            await asyncio.sleep(self._plan.stall)
        await self._reply(reply)

    async def _reply(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def _cut(self) -> None:
        self._writer.close()
        raise ConnectionResetError

    async def _forward_pushes(self) -> None:
        """Pass bytes both ways: a subscriber receives messages between its commands."""
        for command in self._waiting:
            if command is not None:
                self._server_writer.write(command[1])
        pushes = asyncio.create_task(self._pump_pushes())
        try:
            while (command := await self._next()) is not None:
                self._server_writer.write(command[1])
        finally:
            pushes.cancel()

    async def _pump_pushes(self) -> None:
        while data := await self._server_reader.read(1 << 16):
            await self._reply(data)
        self._writer.close()


async def _read_command(reader: asyncio.StreamReader) -> Command:
    """Read a request, an array of strings."""
    head = await reader.readuntil(b"\r\n")
    parts: list[bytes] = [head]
    words: list[bytes] = []
    for _ in range(int(head[1:])):
        length = await reader.readuntil(b"\r\n")
        word = await reader.readexactly(int(length[1:]) + 2)
        parts += (length, word)
        words.append(word[:-2])
    return words[0].decode().upper(), b"".join(parts)


async def _read_reply(reader: asyncio.StreamReader) -> bytes:
    """Read one reply of RESP2 or RESP3, whatever is nested in it."""
    line = await reader.readuntil(b"\r\n")
    kind, rest = line[:1], line[1:-2]
    if kind in b"$=!" and rest != b"-1":
        return line + await reader.readexactly(int(rest) + 2)
    if kind in b"*~>%|" and rest != b"-1":
        count = int(rest) * (2 if kind in b"%|" else 1)
        parts = [line, *[await _read_reply(reader) for _ in range(count)]]
        if kind == b"|":  # attributes precede the reply that they describe
            parts.append(await _read_reply(reader))
        return b"".join(parts)
    return line


@contextmanager
def running_redis_proxy(upstream_url: str, plan: FaultPlan | None = None) -> Iterator[RedisProxy]:
    proxy = RedisProxy(upstream_url, plan)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def faults_of(command: str, faults: Sequence[str] = FAULTS) -> list[str]:
    """Return the faults that apply to `command`."""
    return [fault for fault in faults if applies(fault, command)]
