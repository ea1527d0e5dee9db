"""Prints metrics.rst, the table of metrics, from acebase_ipc.admin: make docs/metrics.rst"""

from __future__ import annotations

import sys

from prometheus_client import ProcessCollector

from acebase_ipc.admin.families import METRICS
from acebase_ipc.relay.traffic import MAX_NAMED, OTHER

HEAD = f"""\
.. Made by generate_metrics.py from acebase_ipc.admin.families: make docs/metrics.rst

=======
Metrics
=======

``/metrics`` at the admin endpoint gives the figures of the relay to Prometheus, as text or in
OpenMetrics' format. With ``--admin tcp:9164:interface=127.0.0.1``::

    scrape_configs:
      - job_name: acebase-ipc
        static_configs: [{{targets: ["127.0.0.1:9164"]}}]

and with ``--admin-token-file``, also::

        authorization: {{credentials_file: /etc/prometheus/acebase-ipc-token}}

``contrib/prometheus/alerts.yml`` has alerts for Prometheus, each with what to do.
``contrib/grafana/acebase-ipc.json`` is a dashboard for Grafana; each panel has a description.

* The label ``database`` has the names of the first {MAX_NAMED} databases; all further ones share
  ``{OTHER}``. Counters keep their values when a database has no peers any more; gauges
  are there only as long as it has one.
* No label has the id or the address of a peer: the admin endpoint's status page and API show these.
* Relaying a message costs nothing for the metrics: they are made of figures that the relay keeps
  anyway, when they are asked for, and in rotation with the peers' messages.
* Peers are pinged about every ``--keepalive-interval``. The time until a peer answers, without that
  of the network, is the lag of its event loop. That of the network is what the kernel has measured
  as the shortest time to the other end and back; behind a proxy, it ends there. Where
  the system does not tell it (other systems than Linux), nothing is measured.

.. list-table::
   :header-rows: 1
   :widths: 34 10 18 38

   * - Name
     - Type
     - Labels
     - Meaning
"""


def row(name: str, kind: str, labels: tuple[str, ...], text: str) -> str:
    """A row of the table."""
    cells = (f"``{name}``", kind, ", ".join(f"``{each}``" for each in labels), text)
    return "   * - {}\n     - {}\n     - {}\n     - {}\n".format(*cells).replace("- \n", "-\n")


def document() -> str:
    """The whole document."""
    rows = [row(each.name, each.kind, each.labels, each.text) for each in METRICS]
    for family in ProcessCollector(registry=None).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append(row(name, family.type, (), family.documentation))
    return "".join((HEAD, *rows))


if __name__ == "__main__":
    sys.stdout.write(document())
