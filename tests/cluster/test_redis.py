"""Redis does with the script what the model does; and what a relay is told if it does not."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from acebase_ipc.cluster.leases import Command, Reply, Status, Verb
from acebase_ipc.cluster.redis import RedisStore, StoreDown
from acebase_ipc.cluster.redis_url import RedisURL, parse_redis_url
from acebase_ipc.cluster.store import StoreFailed, parse_reply
from acebase_ipc.errors import ConfigError
from tests.cluster.model_store import ModelStore
from tests.cluster.redis_server import RedisServer, redis_server


def store_at(url: str, prefix: str = "test", timeout: float = 20.0) -> RedisStore:
    from twisted.internet import reactor

    return RedisStore(parse_redis_url(url), reactor, timeout, time.monotonic, prefix)


def join(relay: str, *homes: str | int, highest: int = 0) -> Command:
    return Command(Verb.JOIN, relay, (1, '{"x": "a b"}', highest, *homes))


def commands(chosen: random.Random) -> Command:
    """A command as relays may send it, with few names and epochs so that they meet."""
    relay = chosen.choice("abc")
    database = chosen.choice(["shop data", "blög"])
    epoch, counter = chosen.randrange(1, 12), chosen.randrange(1, 4)
    homes = (database, epoch) if chosen.random() < 0.5 else ()
    arguments: dict[Verb, tuple[str | int, ...]] = {
        Verb.JOIN: (counter, "about me", epoch, *homes),
        Verb.RENEW: (counter, "about"),
        Verb.BURY: (chosen.choice("abc"), counter),
        Verb.FIND: (database,),
        Verb.CLAIM: (database, epoch),
        Verb.RELEASE: (database, epoch),
        Verb.GIVE: (database, epoch, chosen.choice("abc")),
    }
    verb = chosen.choice([*arguments, Verb.WATCH, Verb.LEAVE, Verb.CLAIM, Verb.RENEW])
    return Command(verb, relay, arguments.get(verb, ()))


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("seed", range(20))
async def test_the_script_does_what_the_model_does(redis: RedisServer, seed: int) -> None:
    chosen = random.Random(seed)
    store, model = store_at(redis.url, f"model{seed}"), ModelStore()
    first = await store.run(Command(Verb.CLAIM, "a", ("shop data", 1_000_000_000_000_000)))
    base = 2_000_000_000_000
    await store.run(join("a", highest=base))
    model.run(join("a", highest=base))
    ripens_at = chosen.randrange(60)
    for step in range(60):
        command = commands(chosen)
        if step == ripens_at:
            await store.run(Command(Verb.RIPEN, "a", (first.token,)))
            await store.run(Command(Verb.RIPEN, "b", (first.token,)))
            model.run(Command(Verb.RIPEN, "a", (model.token,)))
            model.run(Command(Verb.RIPEN, "b", (model.token,)))
        got = await store.run(command)
        assert got.token == first.token
        expected = model.run(command)
        assert got == Reply(
            expected.status,
            got.token,
            expected.is_ripe,
            expected.records,
            expected.home,
            expected.refused,
        ), command
    store.close()


@pytest_twisted.ensureDeferred
async def test_a_redis_that_was_restarted_has_another_token_and_higher_epochs(
    tmp_path: Path,
) -> None:
    with redis_server(tmp_path) as redis:
        store = store_at(redis.url)
        before = await store.run(join("a"))
        await store.run(Command(Verb.RIPEN, "a", (before.token,)))
        claimed = await store.run(Command(Verb.CLAIM, "a", ("shop", 0)))
        assert claimed.home is not None
        redis.kill()
        sent = time.monotonic()
        with pytest.raises(StoreFailed):
            await store.run(join("a"))
        with pytest.raises(StoreDown) as down:
            await store.run(join("a"))
        assert sent <= down.value.sent_at <= time.monotonic()

        redis.start()
        after = await store.run(Command(Verb.CLAIM, "a", ("shop", 0)))
        assert after.status is Status.GONE
        assert after.token != before.token
        assert not after.is_ripe
        again = await store.run(join("a", "shop", claimed.home.epoch))
        assert again.refused == ()
        await store.run(Command(Verb.RIPEN, "a", (after.token,)))
        other = await store.run(Command(Verb.CLAIM, "a", ("blog", 0)))
        assert other.home is not None
        assert other.home.epoch > claimed.home.epoch
        store.close()


@pytest_twisted.ensureDeferred
async def test_a_redis_that_is_suspended_is_not_down(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        store = store_at(redis.url, timeout=0.2)
        await store.run(join("a"))
        redis.freeze()
        for _ in range(2):
            with pytest.raises(StoreFailed, match="not answered in time") as failed:
                await store.run(join("a"))
            assert not isinstance(failed.value, StoreDown)
        redis.thaw()
        store.close()


@pytest_twisted.ensureDeferred
async def test_an_error_of_redis_is_told(redis: RedisServer) -> None:
    store = store_at(redis.url.replace("unix://", "unix://:wrong@"))
    with pytest.raises(StoreFailed, match="AUTH"):
        await store.run(join("a"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("redis://example.org", {"host": "example.org", "port": 6379}),
        ("redis://u:p%40@[::1]:1234/3", {"host": "::1", "port": 1234, "db": 3, "username": "u"}),
        ("rediss://example.org", {"is_secure": True}),
        ("unix:///run/redis.sock", {"socket": "/run/redis.sock"}),
        ("unix://:p%40@/run/redis.sock?db=2", {"socket": "/run/redis.sock", "db": 2}),
    ],
)
def test_a_url(text: str, parts: dict[str, Any]) -> None:
    url = parse_redis_url(text)
    assert {name: getattr(url, name) for name in parts} == parts
    assert url.password == ("p@" if "p%40" in text else None)
    assert "p@" not in repr(url)


@pytest.mark.parametrize(
    "text",
    ["", "redis://", "http://example.org", "redis://h:x", "redis://h/x", "unix://host/p", "unix:x"],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_redis_url(text)


@pytest.mark.parametrize("answer", [None, [], [b"done"], [b"x", b"t", b"1", [], [], []]])
def test_what_is_no_answer(answer: Any) -> None:
    with pytest.raises(StoreFailed):
        parse_reply(answer)


def test_a_url_hides_its_password() -> None:
    assert RedisURL("redis://h:1", "h", password="secret").description == "redis://h:1"
