"""The configuration of a server."""

from __future__ import annotations

import os
import stat
from dataclasses import InitVar, dataclass, field, replace
from typing import Final

from acebase_ipc.cluster.leases import DEFAULT_LEASE
from acebase_ipc.cluster.redis_url import parse_redis_url
from acebase_ipc.cluster.settings import check_lease, split_address
from acebase_ipc.errors import ConfigError
from acebase_ipc.http.proxies import UNIX
from acebase_ipc.http.tokens import Rule, read_token_file
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.relay.limits import DEFAULT_MAX_PAYLOAD_TLS, Limits
from acebase_ipc.server.access import (
    clean_database,
    clean_host,
    clean_network,
    clean_origin,
    clean_token,
)
from acebase_ipc.server.endpoints import (
    LOOPBACK,
    MAX_PORT,
    ParsedEndpoint,
    parse_admin,
    parse_endpoint,
    render,
)

DEFAULT_HOST: Final = LOOPBACK
DEFAULT_PORT: Final = 9163


@dataclass(frozen=True, kw_only=True, slots=True)
class SSLConfig:
    """The files with the key and certificate for TLS: PEM files or a PFX bundle.

    :param key_path: a PEM file with the private key.
    :param cert_path: a PEM file with the certificate; default: in the file of *key_path*.
    :param pfx_path: a PKCS#12 file with both, instead of the two PEM files.
    :param passphrase: the passphrase of the PKCS#12 file.
    :raises ConfigError: unless either *key_path* or *pfx_path* is given.
    """

    key_path: str | None = None
    cert_path: str | None = None
    pfx_path: str | None = None
    passphrase: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.key_path is None) == (self.pfx_path is None):
            raise ConfigError("ssl needs either key_path (and cert_path) or pfx_path")
        if self.pfx_path is not None and self.cert_path is not None:
            raise ConfigError("ssl: a PFX file holds its certificate: leave out cert_path")
        if self.key_path is not None and self.passphrase is not None:
            raise ConfigError("ssl: an encrypted PEM key is not supported: use a PFX file")

    def endpoint(self, port: int, host: str) -> str:
        """Return the endpoint string that listens on *port* of *host*."""
        if self.pfx_path is not None:
            files = {"path": self.pfx_path, "passphrase": self.passphrase}
            return _endpoint("pfx", port, host, files)
        return _endpoint(
            "ssl", port, host, {"privateKey": self.key_path, "certKey": self.cert_path}
        )


def _endpoint(kind: str, port: int, host: str, arguments: dict[str, str | None]) -> str:
    given = {name: value for name, value in arguments.items() if value is not None}
    return render(f"{kind}:{port}", {"interface": host, **given})


def is_exposed(path: str) -> bool:
    """Return whether every user of the machine can read the file at *path*."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except (OSError, ValueError):
        return False  # it may have been removed just now


@dataclass(frozen=True, kw_only=True)
class AceBaseIPCServerConfig:
    """The configuration of a server.

    :param host: the address to listen on; ``""`` for all. Default: loopback.
    :param port: the TCP port, 0 for any free one, ``None`` to listen on none.
    :param ssl: listen with TLS.
    :param endpoints: Twisted endpoint strings to listen on, instead of *host*, *port* and *ssl*.
    :param max_payload: the original server's name for ``limits.max_payload``.
    :param token: the secret that clients have to present; default: none.
    :param token_file: a file with tokens, for all databases or for some, as
        :func:`acebase_ipc.http.tokens.read_token_file` reads it; read again on SIGHUP.
    :param dialect: the dialect of all peers; default: detected for each peer.
    :param introductions: send AceBase peers each other's hello, so that a peer that joins
        late learns the subscriptions of the others.
    :param lock_recovery: release the locks of AceBase peers that are gone, and tell a new master
        of the locks that are held and of open requests.
    :param lock_sessions: grant the locks that the master could not but grant, and release locks
        in its place: AceBase writes faster, as each transaction asks for several. Not without
        *lock_recovery*.
    :param state_dir: a directory in which a relay that stops leaves its state to the next one,
        and in which it keeps a journal of workers and locks, so that neither a restart nor a crash
        of the relay stops a cluster; made if its parent exists.
    :param allow_origins: web origins whose pages may use the relay, such as
        ``https://example.org``; ``*`` for all. Default: none.
    :param allow_hosts: further host names under which a relay on loopback may be addressed
        without a token.
    :param databases: the wire names that are served, as patterns of a shell: ``mydb_*``. Others are
        refused with 403. Default: all.
    :param trust_proxy: the addresses and networks of proxies, such as ``10.0.0.0/8``, whose
        ``X-Forwarded-For`` or ``Forwarded`` and PROXY headers name the clients; ``unix`` for
        all processes that connect to a Unix socket. Default: none.
    :param admin: endpoint strings for the admin endpoint, which shows what happens and controls
        the server; default: none. Without *admin_token_file* on loopback or a unix socket only.
    :param admin_token_file: a file with tokens for the admin endpoint, needed over TCP then; as
        *token_file*.
    :param admin_bodies: show the bodies of messages to those who watch them.
    :param cluster: the URL of a Redis, by which several relays act as one: ``redis://``,
        ``rediss://`` or ``unix://``. It needs *cluster_address* and *cluster_secret_file*, and
        takes no *state_dir*.
    :param cluster_address: where the other relays reach this one, as ``host:port``; it listens
        there.
    :param cluster_secret_file: a file with a secret that the relays of the cluster share.
    :param cluster_certificate: a PEM file with a key and a certificate that they share, for TLS
        between them; default: no TLS.
    :param cluster_lease: the seconds after which the databases of a relay that was killed are
        served by another one.
    :param limits: all other bounds.
    :raises ConfigError: for a value that cannot be used.

    Relative paths are resolved when the configuration is made.
    """

    host: str = DEFAULT_HOST
    port: int | None = DEFAULT_PORT
    ssl: SSLConfig | None = None
    endpoints: tuple[str, ...] = field(default=(), repr=False)  # may hold a passphrase
    max_payload: InitVar[int | None] = None
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    dialect: Dialect | None = None
    introductions: bool = True
    lock_recovery: bool = True
    lock_sessions: bool = True
    state_dir: str | None = None
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()
    trust_proxy: tuple[str, ...] = ()
    admin: tuple[str, ...] = field(default=(), repr=False)  # may hold a passphrase
    admin_token_file: str | None = None
    admin_bodies: bool = False
    cluster: str | None = field(default=None, repr=False)  # may hold a password
    cluster_address: str | None = None
    cluster_secret_file: str | None = None
    cluster_certificate: str | None = None
    cluster_lease: float = DEFAULT_LEASE
    limits: Limits = field(default_factory=Limits)
    parsed_admin: tuple[ParsedEndpoint, ...] = field(init=False, repr=False, compare=False)
    parsed_endpoints: tuple[ParsedEndpoint, ...] = field(init=False, repr=False, compare=False)
    effective_limits: Limits = field(init=False, repr=False, compare=False)

    def __post_init__(self, max_payload: int | None) -> None:
        self._check_types()
        self._clean_access()
        self._clean_cluster()
        self._set("limits", self._merge(max_payload))
        self._set("parsed_endpoints", tuple(map(parse_endpoint, self.descriptions)))
        self._check_proxies()
        has_token = self.admin_token_file is not None
        self._set("parsed_admin", tuple(parse_admin(each, has_token) for each in self.admin))
        limits = self.limits
        if limits.max_payload is None and self.is_secure:
            limits = replace(limits, max_payload=DEFAULT_MAX_PAYLOAD_TLS)
        self._set("effective_limits", limits)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # only while it is made

    def _check_types(self) -> None:
        if self.port is not None and (
            isinstance(self.port, bool) or not isinstance(self.port, int)
        ):
            raise ConfigError(f"port must be a number, not {self.port!r}")
        if self.port is not None and not 0 <= self.port <= MAX_PORT:
            raise ConfigError(f"port must be from 0 to {MAX_PORT}, not {self.port}")
        for name in (
            "endpoints",
            "allow_origins",
            "allow_hosts",
            "databases",
            "trust_proxy",
            "admin",
        ):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} is a tuple of strings")
        if self.token is not None and not isinstance(self.token, str):
            raise ConfigError("token must be text")
        if self.dialect is not None and not isinstance(self.dialect, Dialect):
            raise ConfigError(f"dialect must be a Dialect, not {self.dialect!r}")
        if not isinstance(self.limits, Limits):
            raise ConfigError(f"limits must be a Limits, not {self.limits!r}")

    def _clean_access(self) -> None:
        if self.token is not None and self.token_file is not None:
            raise ConfigError("give either token (--token) or token_file (--token-file)")
        if self.token is not None:
            self._set("token", clean_token(self.token, "token"))
        if self.token_file is not None:
            if not self.token_file:
                raise ConfigError("token_file must not be empty: leave it out to require no token")
            self._set("token_file", os.path.abspath(self.token_file))
        if self.admin_token_file is not None:
            if not self.admin_token_file:
                raise ConfigError("admin_token_file must not be empty")
            if not self.admin:
                raise ConfigError("admin_token_file (--admin-token-file) needs admin (--admin)")
            self._set("admin_token_file", os.path.abspath(self.admin_token_file))
        if self.state_dir is not None:
            if not self.state_dir:
                raise ConfigError("state_dir must not be empty")
            if not self.lock_recovery:
                raise ConfigError("state_dir (--state-dir) needs lock_recovery")
            self._set("state_dir", os.path.abspath(self.state_dir))
        self._set("databases", tuple(map(clean_database, self.databases)))
        self._set("allow_origins", tuple(map(clean_origin, self.allow_origins)))
        self._set("allow_hosts", tuple(map(clean_host, self.allow_hosts)))
        self._set("trust_proxy", tuple(map(clean_network, self.trust_proxy)))

    def _clean_cluster(self) -> None:
        names = ("cluster_address", "cluster_secret_file", "cluster_certificate")
        if self.cluster is None:
            for name in names:
                if getattr(self, name) is not None:
                    option = "--" + name.replace("_", "-")
                    raise ConfigError(f"{name} ({option}) needs cluster (--cluster)")
            return
        parse_redis_url(self.cluster)
        if self.cluster_address is None or self.cluster_secret_file is None:
            raise ConfigError(
                "cluster (--cluster) needs cluster_address (--cluster-address) and"
                " cluster_secret_file (--cluster-secret-file)"
            )
        if self.state_dir is not None:
            raise ConfigError(
                "cluster (--cluster) takes no state_dir (--state-dir): another relay goes on"
            )
        split_address(self.cluster_address)
        check_lease(self.cluster_lease)
        self._set("cluster_secret_file", os.path.abspath(self.cluster_secret_file))
        if self.cluster_certificate is not None:
            self._set("cluster_certificate", os.path.abspath(self.cluster_certificate))

    def _check_proxies(self) -> None:
        """Refuse an endpoint for proxies that would refuse every connection."""
        for each in self.parsed_endpoints:
            if not each.wrappers:
                continue
            if not self.trust_proxy:
                needed = "the addresses of the proxies"
            elif each.kind == "unix" and UNIX not in self.trust_proxy:
                needed = UNIX
            else:
                continue
            raise ConfigError(f"{each.redacted!r} needs trust_proxy (--trust-proxy): {needed}")

    def _merge(self, max_payload: int | None) -> Limits:
        if max_payload is None:
            return self.limits
        if self.limits.max_payload not in (None, max_payload):
            raise ConfigError(
                f"max_payload is {max_payload}, but limits.max_payload is"
                f" {self.limits.max_payload}: give one of them"
            )
        return replace(self.limits, max_payload=max_payload)

    def rules(self) -> tuple[Rule, ...] | None:
        """Return the tokens that are accepted, ``None`` if none is required.

        Reads the token file as it is now.

        :raises ConfigError: if the token file cannot be used.
        """
        if self.token_file is not None:
            return read_token_file(self.token_file)
        return None if self.token is None else (Rule(self.token.encode()),)

    def admin_rules(self) -> tuple[Rule, ...] | None:
        """Return the tokens that the admin endpoint accepts, ``None`` if none is required.

        :raises ConfigError: if the token file cannot be used.
        """
        return None if self.admin_token_file is None else read_token_file(self.admin_token_file)

    @property
    def secret_files(self) -> tuple[str, ...]:
        """The files that only the relay should be able to read."""
        files = (
            *(self.token_file, self.admin_token_file),
            *(self.cluster_secret_file, self.cluster_certificate),
        )
        given = (each for each in files if each)
        endpoints = (*self.parsed_endpoints, *self.parsed_admin)
        return (*given, *(path for each in endpoints for path in each.secret_files))

    @property
    def reloaded_files(self) -> tuple[str, ...]:
        """The files that are read again when they change: of tokens and of certificates."""
        endpoints = (*self.parsed_endpoints, *self.parsed_admin)
        return (*self.secret_files, *(path for each in endpoints for path in each.files))

    @property
    def exposed_files(self) -> tuple[str, ...]:
        """Those of :attr:`secret_files` that every user of the machine can read."""
        return tuple(filter(is_exposed, self.secret_files))

    @property
    def descriptions(self) -> tuple[str, ...]:
        """The endpoint strings to listen on."""
        if self.endpoints or self.port is None:
            return tuple(self.endpoints)
        if self.ssl is not None:
            return (self.ssl.endpoint(self.port, self.host),)
        return (_endpoint("tcp", self.port, self.host, {}),)

    @property
    def is_secure(self) -> bool:
        """Whether at least one of the ports uses TLS."""
        return any(each.is_secure for each in self.parsed_endpoints)
