"""A program that uses all that is public: mypy has to understand it without options (make lint)."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.defer import Deferred

from acebase_ipc import (
    AceBaseIPCServer,
    AceBaseIPCServerConfig,
    AceBasePeer,
    Client,
    ClientError,
    ConfigError,
    Dialect,
    IPCClient,
    IPCError,
    Limits,
    PeerError,
    SSLConfig,
)
from acebase_ipc.client.changes import Changes
from acebase_ipc.client.errors import ConnectionProblem, HistoryGap, QueueFull
from acebase_ipc.client.iterators import Messages
from acebase_ipc.peer.errors import RemoteError
from acebase_ipc.protocol.envelopes import Event, Mutation
from acebase_ipc.protocol.values import PathReference, decode, encode
from acebase_ipc.relay.events import Observer, PeerJoined
from acebase_ipc.relay.lock_table import LockTable
from acebase_ipc.server.service import State
from acebase_ipc.testing import AceBaseMemoryPeer, MemoryPeer, MemoryRelay, running_relay


class Joined:
    """An observer."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def report(self, event: object) -> None:
        if isinstance(event, PeerJoined):
            self.ids.append(event.peer)


async def serve(observer: Observer) -> tuple[str, int]:
    config = AceBaseIPCServerConfig(
        host="127.0.0.1",
        port=0,
        ssl=SSLConfig(key_path="key.pem"),
        token="secret",
        dialect=Dialect.ACEBASE,
        limits=Limits(max_message=2**20),
    )
    server = AceBaseIPCServer(config, observer=observer)
    await server.start()
    where: tuple[str, int] = server.url, server.port
    clients: tuple[Client, ...] = server.get_clients("mydb_data")
    for each in clients:
        told: Deferred[None] = each.send_message(f"{each.id} {each.dbname} {each.connected}")
        await told
    count: int = await server.broadcast("mydb_data", "hello")
    locks: LockTable = server.locks("mydb_data")
    state: State = server.state
    print(count, locks, state, server.reload(), server.counts["PeerJoined"])  # noqa: T201
    await server.stop()
    return where


async def talk(url: str) -> float:
    client = IPCClient(url, "mydb_data", "alice", token="secret", dialect=Dialect.DOCUMENTED)
    stop = client.on_message(print)
    client.on_disconnected(lambda problem: print(problem.args))  # noqa: T201
    client.on_peer_joined(str.upper)
    client.startService()
    await client.when_connected(fail_after_failures=3)
    messages: Messages = client.messages()
    try:
        await client.send("hello", to="bobby")
        async for message in messages:
            print(message.upper())  # noqa: T201
    except QueueFull as error:
        raise IPCError("too much") from error
    except ClientError:
        stop()
    problem: ConnectionProblem | None = client.problem
    peers: frozenset[str] = await client.fetch_peers()
    print(problem, peers)  # noqa: T201
    return await client.ping()


async def follow(url: str) -> object:
    peer = AceBasePeer(url, "mydb_data", token="secret", max_queue=2**20)

    def changed(event: Event) -> None:
        mutations: tuple[Mutation, ...] = event.mutations
        print(event.path, event.value, [each.target for each in mutations])  # noqa: T201

    async def answer(data: object, sender: str) -> object:
        return encode(data)

    stops = [peer.subscribe("users", "mutations", changed), peer.on_request("copy", answer)]
    peer.on_notification(lambda data, sender: None)
    changes: Changes = peer.changes("orders", since=None)
    await changes.when_ready()
    try:
        async for change in changes:
            cursor: str = change.cursor
            print(cursor, change.mutations[0].target, changes.cursor)  # noqa: T201
    except HistoryGap:
        await changes.aclose()
    peer.startService()
    await peer.when_connected()
    try:
        await peer.notify({"type": "here I am", "at": PathReference("users/ewout")})
        return decode(await peer.request({"type": "how are you"}, timeout=5))
    except RemoteError as error:
        return error.reason
    except (PeerError, ConfigError):
        return None
    finally:
        for stop in stops:
            stop()
        await peer.stopService()


def test_in_memory() -> None:
    with MemoryRelay(max_payload=1000) as relay:
        alice: MemoryPeer = relay.join("alice")
        worker: AceBaseMemoryPeer = relay.join_acebase("worker")
        client: IPCClient = relay.client("carol")
        peer: AceBasePeer = relay.peer("david")
        for each in (client, peer):
            each.startService()
        relay.pass_time(1)
        received: list[str] = alice.received()
        worker.say_envelope("notification", data=received)


def relays() -> Iterator[str]:
    with running_relay(AceBaseIPCServerConfig(port=0)) as url:
        yield url
