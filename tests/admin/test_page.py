"""The files of the status page, as they are served."""

from __future__ import annotations

import re

import pytest

from acebase_ipc.admin.site import PAGE, TYPES
from tests.admin.relay import AdminRelay

SOURCES = {each.name: each.read_text("utf-8") for each in PAGE.iterdir()}


@pytest.mark.parametrize("name", sorted({*SOURCES} - {"index.html"}))
def test_each_file_is_served(name: str) -> None:
    with AdminRelay() as relay:
        response = relay.ask("GET", f"/page/{name}")
        assert response.text == SOURCES[name]
        assert response.headers["content-type"] in {each.decode() for each in TYPES.values()}


def test_the_page_may_load_its_own_files_only() -> None:
    with AdminRelay() as relay:
        response = relay.ask("GET", "/")
        assert response.text == SOURCES["index.html"]
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert relay.ask("GET", "/page/index.html").status == 404
        assert relay.ask("GET", "/page/").status == 404
        assert relay.ask("GET", "/page/..%2fsite.py").status == 404


def test_every_file_that_is_named_is_there() -> None:
    named = re.findall(r'(?:src|href)="page/([^"]+)"', SOURCES["index.html"])
    imported = [re.findall(r'from "\./([^"]+)"', text) for text in SOURCES.values()]
    assert {*named, *(name for names in imported for name in names)} == {*SOURCES} - {"index.html"}


def test_nothing_is_parsed_as_html_and_nothing_is_inline() -> None:
    scripts = "\n".join(text for name, text in SOURCES.items() if name.endswith(".js"))
    parsed = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|Function\("
    assert re.findall(parsed, scripts) == []
    assert re.findall(r"<style|<script>|\son\w+=|\sstyle=", SOURCES["index.html"]) == []
    assert re.findall(r"https?://", scripts.replace("http://www.w3.org/2000/svg", "")) == []
