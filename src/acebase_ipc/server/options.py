"""Every option of the relay: its name, type, group, text, default, and whether it can be reloaded.

The command line, the environment, the configuration file, its example, the help and the table in
the documentation are made from this list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from acebase_ipc.cluster.leases import DEFAULT_LEASE
from acebase_ipc.cluster.redis_url import parse_redis_url
from acebase_ipc.cluster.settings import check_lease, split_address
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.relay.limits import Limit, Limits, describe_limits, format_size
from acebase_ipc.server.access import (
    clean_database,
    clean_host,
    clean_network,
    clean_origin,
    clean_token,
)
from acebase_ipc.server.config import DEFAULT_PORT
from acebase_ipc.server.endpoints import parse_endpoint

PREFIX: Final = "ACEBASE_IPC_"
"""The names of all environment variables begin with it."""

DEFAULT_ENDPOINT: Final = f"{DEFAULT_PORT}"


class Group(Enum):
    """What options are about, in the order of the help."""

    LISTEN = "Listen"
    ACCESS = "Access"
    ACEBASE = "AceBase"
    LOG = "Log"
    PROCESS = "Process"
    CLUSTER = "Cluster"
    LIMITS = "Limits"


class Kind(Enum):
    """The type of an option's value: what to write, for errors, and its name in the help."""

    TEXT = "text", "TEXT"
    PATH = "a path", "FILE"
    ENDPOINTS = "endpoint strings", "ENDPOINT"
    TEXTS = "texts", "TEXT"
    FLAG = "true or false", ""
    CHOICE = "text", "NAME"
    SIZE = "a size such as 16384, 16KiB or 16MiB", "SIZE"
    COUNT = "a whole number such as 20000", "NUMBER"
    SECONDS = "a number of seconds such as 15", "SECONDS"

    def __init__(self, expected: str, metavar: str) -> None:
        self.expected = expected
        self.metavar = metavar

    @property
    def is_list(self) -> bool:
        """Whether there may be several values."""
        return self in (Kind.ENDPOINTS, Kind.TEXTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option.

    :ivar name: its name in the configuration file, which has underscores.
    :ivar help: what it does, as one or two sentences.
    :ivar example: a value, as in the configuration file.
    :ivar default: its default, as text; ``None`` if it has none.
    :ivar reloads: whether a change takes effect without a restart.
    :ivar field: the field of ``AceBaseIPCServerConfig`` that it sets; its own name by default.
    :ivar choices: the values of a :attr:`Kind.CHOICE`.
    :ivar check: raises :exc:`ConfigError` for a value that cannot be used.
    :ivar needs_value: whether an empty list is refused: it would mean the default, which a weaker
        place may have narrowed.
    :ivar excludes: another option that it stands for: only one of them has a value.
    """

    name: str
    kind: Kind
    group: Group
    help: str
    example: str
    default: str | None = None
    reloads: bool = False
    field: str = ""
    metavar: str = ""
    short: str = ""
    choices: tuple[str, ...] = ()
    check: Callable[[Any], object] | None = None
    needs_value: bool = False
    excludes: str | None = None

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.name.upper()

    @property
    def config_field(self) -> str:
        """The field of ``AceBaseIPCServerConfig`` that it sets."""
        return self.field or self.name

    @property
    def text(self) -> str:
        """Its help for a command line, with its default."""
        text = f"{self.help} May be given more than once." if self.kind.is_list else self.help
        return text if self.default is None else f"{text} [default: {self.default}]"


def _check_limit(name: str) -> Callable[[Any], object]:
    def check(value: Any) -> object:
        return Limits(**{name: value})

    return check


def _limit_option(name: str, limit: Limit, default: float | None) -> Option:
    if limit.unit == "seconds":
        kind = Kind.SECONDS
    elif limit.unit in ("bytes", "UTF-16 code units"):
        kind = Kind.SIZE
    else:
        kind = Kind.COUNT
    known = limit.default_text
    if known is None:
        assert default is not None
        known = format_size(default) if kind is Kind.SIZE else f"{default:.15g}"
    in_units = "" if limit.unit != "UTF-16 code units" else f", in {limit.unit}"
    number = format_size(limit.example if default is None else default)
    return Option(
        name=name,
        kind=kind,
        group=Group.LIMITS,
        help=f"{limit.summary[0].upper()}{limit.summary[1:]}{in_units}.",
        example=f'"{number}"' if kind is Kind.SIZE else f"{number}",
        default=known,
        reloads=limit.reloads,
        check=_check_limit(name),
    )


def _clean_token(text: str) -> object:
    return clean_token(text, "the token")


OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        name="port",
        short="p",
        kind=Kind.ENDPOINTS,
        group=Group.LISTEN,
        field="endpoints",
        help="Listen on this endpoint; a number is a port of 127.0.0.1 and ::1.",
        example=f'["{DEFAULT_ENDPOINT}"]',
        default=DEFAULT_ENDPOINT,
        check=parse_endpoint,
        needs_value=True,
    ),
    Option(
        name="trust_proxy",
        kind=Kind.TEXTS,
        group=Group.LISTEN,
        metavar="NETWORK",
        help="Trust what proxies of this address or network (CIDR), or unix, say of their clients.",
        example='["10.0.0.0/8"]',
        default="none",
        check=clean_network,
    ),
    Option(
        name="admin",
        kind=Kind.ENDPOINTS,
        group=Group.LISTEN,
        help="Show what happens, and obey commands, at this endpoint.",
        example='["tcp:9164:interface=127.0.0.1"]',
        default="none",
        check=parse_endpoint,
    ),
    Option(
        name="token_file",
        kind=Kind.PATH,
        group=Group.ACCESS,
        help="Read tokens from this file, one per line: [<database pattern>] <token>.",
        example='"/etc/acebase-ipc/token"',
        reloads=True,
        excludes="token",
    ),
    Option(
        name="token",
        kind=Kind.TEXT,
        group=Group.ACCESS,
        help="The secret that clients must present; visible in the output of 'ps'.",
        example='"change me"',
        reloads=True,
        check=_clean_token,
        excludes="token_file",
    ),
    Option(
        name="admin_token_file",
        kind=Kind.PATH,
        group=Group.ACCESS,
        help="Read tokens for --admin over TCP from this file, one per line.",
        example='"/etc/acebase-ipc/admin-token"',
        reloads=True,
    ),
    Option(
        name="admin_bodies",
        kind=Kind.FLAG,
        group=Group.ACCESS,
        help="Show the bodies of messages to those who watch at --admin.",
        example="true",
    ),
    Option(
        name="allow_origin",
        kind=Kind.TEXTS,
        group=Group.ACCESS,
        field="allow_origins",
        metavar="ORIGIN",
        help="Allow web pages of this origin, such as https://example.org; * allows all.",
        example='["https://example.org"]',
        default="none",
        reloads=True,
        check=clean_origin,
    ),
    Option(
        name="allow_host",
        kind=Kind.TEXTS,
        group=Group.ACCESS,
        field="allow_hosts",
        metavar="HOST",
        help="Allow this host name in requests to a relay on loopback without a token.",
        example='["relay.example.org"]',
        default="the names of loopback",
        reloads=True,
        check=clean_host,
    ),
    Option(
        name="database",
        kind=Kind.TEXTS,
        group=Group.ACCESS,
        field="databases",
        metavar="PATTERN",
        help="Serve only databases with such a wire name: mydb_data, or shop_*; others get 403.",
        example='["mydb_*"]',
        default="all",
        reloads=True,
        check=clean_database,
        needs_value=True,
    ),
    Option(
        name="dialect",
        kind=Kind.CHOICE,
        group=Group.ACEBASE,
        help="The dialect of all peers; auto detects that of each peer.",
        choices=("auto", *(each.value for each in Dialect)),
        example='"auto"',
        default="auto",
    ),
    Option(
        name="state_dir",
        kind=Kind.PATH,
        group=Group.ACEBASE,
        metavar="DIR",
        help="Keep the state here, so that neither a restart nor a crash stops a cluster.",
        example='"/var/lib/acebase-ipc"',
    ),
    Option(
        name="no_introductions",
        kind=Kind.FLAG,
        group=Group.ACEBASE,
        field="introductions",
        help="Do not send acebase peers each other's hello.",
        example="true",
    ),
    Option(
        name="no_lock_recovery",
        kind=Kind.FLAG,
        group=Group.ACEBASE,
        field="lock_recovery",
        help="Leave the locks of peers that are gone, tell a new master nothing, and grant no lock"
        " in its place.",
        example="true",
    ),
    Option(
        name="no_lock_sessions",
        kind=Kind.FLAG,
        group=Group.ACEBASE,
        field="lock_sessions",
        help="Leave each request about a lock to the master, also where its answer is known.",
        example="true",
    ),
    Option(
        name="log_format",
        kind=Kind.CHOICE,
        group=Group.LOG,
        help="The format of the log; json is one object per line.",
        choices=("text", "json"),
        example='"text"',
        default="text",
    ),
    Option(
        name="log_level",
        kind=Kind.CHOICE,
        group=Group.LOG,
        help="The lowest level that is logged.",
        choices=("debug", "info", "warn", "error"),
        example='"info"',
        default="info",
        reloads=True,
    ),
    Option(
        name="take_over_from",
        kind=Kind.PATH,
        group=Group.PROCESS,
        metavar="SOCKET",
        help="Take over all connections of the relay with the same option, if one is running.",
        example='"/run/acebase-ipc/successor.sock"',
    ),
    Option(
        name="cluster",
        kind=Kind.TEXT,
        group=Group.CLUSTER,
        metavar="URL",
        help="Act as one with the other relays that use this Redis.",
        example='"redis://192.0.2.1:6379"',
        check=parse_redis_url,
    ),
    Option(
        name="cluster_address",
        kind=Kind.TEXT,
        group=Group.CLUSTER,
        metavar="HOST:PORT",
        help="Listen here for the other relays, which reach this one at this address.",
        example='"192.0.2.10:9165"',
        check=split_address,
    ),
    Option(
        name="cluster_secret_file",
        kind=Kind.PATH,
        group=Group.CLUSTER,
        help="Read the secret that the relays share from this file.",
        example='"/etc/acebase-ipc/cluster-secret"',
    ),
    Option(
        name="cluster_certificate",
        kind=Kind.PATH,
        group=Group.CLUSTER,
        help="Use TLS between the relays, with the key and the certificate in this PEM file.",
        example='"/etc/acebase-ipc/cluster.pem"',
    ),
    Option(
        name="cluster_lease",
        kind=Kind.SECONDS,
        group=Group.CLUSTER,
        help="Let another relay serve the databases of a relay that was killed after so long.",
        example=f"{DEFAULT_LEASE:g}",
        default=f"{DEFAULT_LEASE:g}",
        check=check_lease,
    ),
    *(
        _limit_option(name, limit, getattr(Limits(), name))
        for name, limit in describe_limits().items()
    ),
)

BY_NAME: Final = {each.name: each for each in OPTIONS}

CONFIG: Final = Option(
    name="config",
    short="c",
    kind=Kind.PATH,
    group=Group.LISTEN,
    help="Read options from this TOML file, too.",
    example='"/etc/acebase-ipc/acebase-ipc.toml"',
)
"""Names the configuration file, in which it cannot stand."""
