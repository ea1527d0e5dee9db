"""The alerts and the dashboard ask for metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import ProcessCollector

from acebase_ipc.admin.counts import KINDS, reason_of
from acebase_ipc.admin.families import METRICS
from acebase_ipc.relay.events import DropReason, ExpiryReason
from acebase_ipc.relay.limits import describe_limits
from tests.programs import program

PROJECT = Path(__file__).resolve().parents[2]
ALERTS = PROJECT / "contrib" / "prometheus" / "alerts.yml"
DASHBOARD = PROJECT / "contrib" / "grafana" / "acebase-ipc.json"

PROCESS = {
    sample.name for each in ProcessCollector(registry=None).collect() for sample in each.samples
}

LABELS = {
    each.name: {*each.labels, "job", "instance"} for each in METRICS if each.kind != "histogram"
}
LABELS |= {
    f"{each.name}_{part}": {*each.labels, "job", "instance", *(("le",) if part == "bucket" else ())}
    for each in METRICS
    if each.kind == "histogram"
    for part in ("bucket", "sum", "count")
}
LABELS |= {each: {"job", "instance"} for each in {*PROCESS, "up"}}
"""The labels of each series that Prometheus has of a relay."""

VALUES: dict[str, set[str]] = {
    "kind": {*KINDS, "websocket", "http"},
    "reason": {*map(reason_of, (*DropReason, *ExpiryReason)), "too_large", ""},
    "limit": set(describe_limits()),
    "state": {"connected", "suspended", "ending"},
}
"""The values of some labels."""

KNOWN_WORDS = {
    "sum",
    "min",
    "max",
    "by",
    "on",
    "group_left",
    "rate",
    "increase",
    "changes",
    "time",
    "or",
    "histogram_quantile",
}
"""Words of PromQL."""

DURATION = re.compile(r"[1-9][0-9]*[smhd]")


def check_query(query: str) -> None:
    """Check that the parts of a PromQL expression exist, as far as this is no parser."""
    selectors = re.findall(r"([a-z_:]+)\{([^}]*)\}", query)
    for name, matchers in selectors:
        for label, value in re.findall(r'(\w+)\s*[=!]~?\s*"([^"]*)"', matchers):
            assert label in LABELS[name], f"{name} has no label {label}"
            if label in VALUES and not value.startswith("$"):
                assert set(value.split("|")) <= VALUES[label], value
    bare = re.sub(r'"[^"]*"', "", query)
    assert all(bare.count(one) == bare.count(other) for one, other in ("()", "[]", "{}"))
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on) \([^)]*\)", "", bare)
    labels = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
    names = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - KNOWN_WORDS
    assert names, f"a query of nothing: {query}"
    assert names - {"job", "instance", "database"} <= LABELS.keys(), names - LABELS.keys()
    for each in labels:
        known = set.union(*(LABELS[name] for name in names if name in LABELS))
        assert set(re.split(r",\s*", each)) <= known, each


# Alerts


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    assert document.keys() == {"groups"}
    for group in document["groups"]:
        assert group.keys() == {"name", "rules"}
    names = [each["name"] for each in document["groups"]]
    assert len(set(names)) == len(names)
    return [rule for group in document["groups"] for rule in group["rules"]]


RULES = rules()


def test_no_two_alerts_have_the_same_name() -> None:
    names = [each["alert"] for each in RULES]
    assert len(set(names)) == len(names) > 10


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_complete_and_its_query_asks_for_what_exists(rule: dict[str, Any]) -> None:
    assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert re.fullmatch(r"AceBase[A-Za-z]+", rule["alert"])
    assert DURATION.fullmatch(rule.get("for", "1m"))
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "runbook"}
    check_query(rule["expr"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_text_uses_labels_that_the_query_leaves_and_names_what_exists(
    rule: dict[str, Any],
) -> None:
    summary, runbook = rule["annotations"]["summary"], rule["annotations"]["runbook"]
    used = set(re.findall(r"\$labels\.(\w+)", summary))
    grouped = re.search(r"\bby \(([^)]*)\)", rule["expr"])
    if grouped is not None:
        assert used <= set(re.split(r",\s*", grouped[1]))
    else:
        names = re.findall(r"(?:acebase_ipc|process)_[a-z_]+|\bup\b", rule["expr"])
        assert used <= LABELS[names[0]]
    assert "$" not in runbook
    for name in re.findall(r"acebase_ipc_[a-z_]+", runbook):
        assert name in LABELS
    for kind in re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", runbook):
        assert kind in KINDS or kind in ("AceBase", "LimitNOFILE"), kind
    assert len(runbook) > 100


def test_a_query_of_what_does_not_exist_is_found() -> None:
    for query in (
        "acebase_ipc_nothing > 0",
        'acebase_ipc_events_total{kind="Nothing"} > 0',
        'acebase_ipc_locks{peer="x"} > 0',
        "sum by (code) (acebase_ipc_locks) > 0",
        "sum(acebase_ipc_locks",
        "acebase_ipc_lock_wait_seconds > 0",
        "1 > 0",
    ):
        with pytest.raises((AssertionError, KeyError)):
            check_query(query)


def promtool(*arguments: object) -> None:
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_alerts() -> None:
    promtool("check", "rules", ALERTS)


def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    document = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    for rule in document["groups"][0]["rules"]:
        del rule["annotations"]  # promtool would compare them
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    promtool("test", "rules", tmp_path / "alerts_test.yml")


# The dashboard

BOARD: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = BOARD["panels"]


def queries() -> Iterator[str]:
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in BOARD["annotations"]["list"]:
        yield annotation["expr"]


@pytest.mark.parametrize("query", [*queries()])
def test_a_query_of_the_dashboard_asks_for_what_exists(query: str) -> None:
    check_query(query)
    variables = {each["name"] for each in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", query)) - {"__rate_interval"}
    assert used <= variables


def test_the_variables_of_the_dashboard_ask_for_what_exists() -> None:
    source, *others = BOARD["templating"]["list"]
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    for each in others:
        match = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", each["query"]["query"])
        assert match is not None
        assert match[2] in LABELS[match[1]]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_is_complete(panel: dict[str, Any]) -> None:
    assert panel["type"] in ("row", "stat", "timeseries")
    assert panel["title"]
    assert len(panel["description"]) > 20
    assert panel["description"].endswith(".")
    assert panel["gridPos"].keys() == {"h", "w", "x", "y"}
    if panel["type"] == "row":
        assert not panel["panels"]
        return
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["fieldConfig"]["defaults"]["unit"]
    ids = [each["refId"] for each in panel["targets"]]
    assert ids
    assert len(set(ids)) == len(ids)
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert len(panel["targets"]) == 1 or target["legendFormat"]


def test_the_dashboard_can_be_imported() -> None:
    assert {"title", "uid", "schemaVersion", "time", "refresh", "version"} <= BOARD.keys()
    assert "id" not in BOARD, "Grafana gives it"
    ids = [each["id"] for each in PANELS]
    assert len(set(ids)) == len(ids)


def test_no_panel_covers_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + across, place["y"] + down)
            for across in range(place["w"])
            for down in range(place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(queries())
    limits = {"limit_seconds", "limit_code_units", "limit_databases"}  # of little interest there
    for metric in METRICS:
        name = metric.name.removeprefix("acebase_ipc_")
        assert metric.name in shown or name in limits, metric.name
