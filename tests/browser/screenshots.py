"""Takes the screenshots of the documentation: make screenshots

A relay serves peers that work for a while, so that the graphs show something: the workers of a
shop, which write all the time; those of a bank, of which one keeps a lock while others wait; and
two databases of plain programs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.cluster import Cluster, Worker
from tests.browser.relay import free_ports, running_relay
from tests.browser.watch import LAPTOP, PHONE, Watch, expect, find_chromium, launch
from tests.soak.link import Link

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCREENSHOTS = Path(__file__).resolve().parents[2] / "docs" / "screenshots"

SHOP, BANK = "shop_data", "bank_data"
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
COLOURS = 128
"""Colours of a screenshot: a page of few colours then takes about 40 KiB."""

PATHS = ("orders/2291/state", "stock/teapot", "stock/kettle", "customers/58/cart", "visits/today")
COMMENTS = ("transactNode", "updateNode", "setNode", "query")
WAITING = (("accounts/17", "transactNode"), ("accounts/40/owner", "updateNode"), ("fees", "query"))


@dataclass(frozen=True, slots=True)
class Shot:
    """A screenshot: its name, the view, and how it is seen."""

    name: str
    view: str
    scheme: str
    viewport: dict[str, int]


SHOTS = (
    Shot("overview-light", "", "light", LAPTOP),
    Shot("overview-dark", "", "dark", LAPTOP),
    Shot("overview-phone", "", "light", PHONE),
    Shot("peers-light", f"#/databases/{SHOP}", "light", LAPTOP),
    Shot("locks-light", f"#/databases/{BANK}/locks", "light", LAPTOP),
    Shot("locks-dark", f"#/databases/{BANK}/locks", "dark", LAPTOP),
    Shot("locks-phone", f"#/databases/{BANK}/locks", "dark", PHONE),
)


async def chat(links: list[Link], chance: random.Random) -> None:
    """Let peers send messages, more at some times than at others."""
    rate = 20.0
    while True:
        rate = min(120.0, max(5.0, rate * chance.uniform(0.9, 1.11)))
        chance.choice(links).send("x" * int(chance.lognormvariate(5, 1)))
        await asyncio.sleep(chance.expovariate(rate))


async def write(worker: Worker, chance: random.Random) -> None:
    """Let a worker take locks and release them, as long as it gets some."""
    while True:
        await asyncio.sleep(chance.expovariate(1.5))
        worker.ask(chance.choice(PATHS), chance.choice(COMMENTS))
        while worker.lock_id is None:
            await asyncio.sleep(0.005)
        await asyncio.sleep(chance.expovariate(80))
        worker.release()


def names(chance: random.Random) -> Iterator[str]:
    """Yield ids as the npm package acebase makes them."""
    while True:
        yield "".join(chance.choices(LETTERS, k=24))


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=310, help="how long the cluster works")
    seconds = parser.parse_args().seconds
    try:
        executable = find_chromium()
    except pytest.skip.Exception as reason:
        sys.exit(str(reason))
    chance = random.Random(15)
    ids = names(chance)
    ports = free_ports()
    with running_relay(ports), Cluster(ports.peers) as cluster, sync_playwright() as playwright:
        workers = cluster.work(SHOP, *(next(ids) for _ in range(10)))
        holder, *waiting, _ = cluster.work(BANK, *(next(ids) for _ in range(5)))
        plain = cluster.join("tickers_data", *(f"ticker-{i}" for i in range(1, 9)))
        plain += cluster.join("sensors_data", *(f"sensor-{i:02}" for i in range(1, 24)))
        cluster.begin(chat(plain, chance))
        for each in workers:
            cluster.begin(write(each, chance))
        watch = Watch(launch(playwright, executable))
        pages = [
            watch.open(f"{ports.page}", color_scheme=each.scheme, viewport=each.viewport)
            for each in SHOTS
        ]
        pages[0].wait_for_timeout(1000 * max(0.0, seconds - 20))
        cluster.call(holder.ask, "accounts/17", "transactNode")
        pages[0].wait_for_timeout(5000)
        for each, (path, comment) in zip(waiting, WAITING, strict=True):
            cluster.call(each.ask, path, comment, None, comment != "query")
        pages[0].wait_for_timeout(15_000)  # until the relay warns
        SCREENSHOTS.mkdir(exist_ok=True)
        for shot, page in zip(SHOTS, pages, strict=True):
            take(shot, page)
        watch.close()


def take(shot: Shot, page: Page) -> None:
    """Take a screenshot, in few colours."""
    page.evaluate("(hash) => { location.hash = hash; }", shot.view)
    if shot.view:
        expect(page.get_by_role("rowheader").first).to_be_visible()
    page.mouse.move(0, 0)
    taken: Any = Image.open(BytesIO(page.screenshot())).convert("RGB")
    path = SCREENSHOTS / f"{shot.name}.png"
    taken.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
