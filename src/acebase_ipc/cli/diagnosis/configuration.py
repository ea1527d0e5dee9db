"""Examines the options of a relay that is not started: what ``check`` is made of."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from twisted.python.usage import UsageError

from acebase_ipc.cli.diagnosis.certificates import examine_dates, now
from acebase_ipc.cli.diagnosis.findings import Finding, error, mistaken_port, ok, skipped, warning
from acebase_ipc.cli.output import count, one_line
from acebase_ipc.errors import ConfigError
from acebase_ipc.loopback import is_loopback_ip
from acebase_ipc.relay.limits import Limits
from acebase_ipc.server.certificates import RENEWABLE, Certificate
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.endpoints import ParsedEndpoint
from acebase_ipc.server.expansion import expand
from acebase_ipc.server.listener import make_endpoint
from acebase_ipc.server.process import OTHER_FILES
from acebase_ipc.tap import Options

_TCP = frozenset({"tcp", "tcp6", "ssl", "tls", "pfx"})


def examine_options(options: tuple[str, ...]) -> Iterator[Finding]:
    """Yield what is found about the *options* of ``acebase-ipc serve``."""
    parsed = Options()
    try:
        parsed.parseOptions(list(options))
    except UsageError as fault:
        yield error("options", one_line(fault), "see  acebase-ipc serve --help")
        return
    config = parsed.settings.config
    yield ok("options", "they can be used together")
    yield from _examine_tokens(config, parsed.settings.exposed_file)
    with ExitStack() as ports:
        for each in (*expand(config.parsed_endpoints), *expand(config.parsed_admin)):
            yield from _examine_endpoint(each, ports)
    yield from _examine_exposure(config)
    yield from _examine_state_dir(config.state_dir)
    yield from _examine_open_files(
        config.effective_limits.max_connections, "max_connections" in parsed.settings.lowered
    )


def _examine_tokens(config: AceBaseIPCServerConfig, exposed_file: str | None) -> Iterator[Finding]:
    for option, read, path in (
        ("--token-file", config.rules, config.token_file),
        ("--admin-token-file", config.admin_rules, config.admin_token_file),
    ):
        if path is None:
            continue
        try:
            rules = read() or ()
        except ConfigError as fault:
            yield error(option, one_line(fault), "acebase-ipc token new --file FILE  makes one")
            continue
        yield ok(option, f"{path} holds {count(len(rules), 'token')}")
    for path in (*config.exposed_files, *([] if exposed_file is None else [exposed_file])):
        yield warning(
            "files", f"{path} holds a secret and is readable by all users", f"chmod o= {path}"
        )


def _examine_endpoint(parsed: ParsedEndpoint, ports: ExitStack) -> Iterator[Finding]:
    """Yield what is found about an endpoint; a port that could be opened is kept in *ports*."""
    from twisted.internet import reactor

    subject = parsed.redacted
    try:
        certificate = Certificate(parsed) if parsed.kind in RENEWABLE else None
        if not parsed.is_inherited:
            plain = replace(parsed, wrappers=())
            make_endpoint(plain, reactor, (), lambda *_: None, certificate)
    except Exception as fault:  # parsers raise whatever their libraries do
        yield error(
            subject, f"it cannot be used: {one_line(fault)}", "correct the string, or its files"
        )
        return
    for each in () if certificate is None else certificate.dates:
        yield from examine_dates(subject, each, now())
    if parsed.is_inherited:
        yield skipped(subject, "systemd gives the socket to the relay when it starts it")
    elif parsed.kind in _TCP:
        yield from _examine_port(subject, parsed, ports)
    elif parsed.kind == "unix":
        yield _examine_path(subject, parsed.arguments["address"])
    else:
        yield skipped(subject, "a plugin of Twisted listens there: nothing more is known")


def _examine_port(subject: str, parsed: ParsedEndpoint, ports: ExitStack) -> Iterator[Finding]:
    port, interface = int(parsed.arguments["port"]), parsed.arguments.get("interface", "")
    is_ipv6 = ":" in interface or parsed.kind == "tcp6"
    trial = ports.enter_context(socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET))
    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        trial.bind((interface, port))
        trial.listen()
    except OSError as fault:
        yield error(subject, f"it cannot be opened: {fault.strerror or fault}", _port_advice(fault))
        return
    yield ok(subject, "the port is free" if port else "the system chooses a free port")
    mistaken = mistaken_port(port)
    if mistaken is not None:
        yield mistaken


def _port_advice(fault: OSError) -> str:
    if fault.errno == errno.EADDRINUSE:
        return "stop the process that listens there (ss -ltnp shows it), or use another port"
    if fault.errno == errno.EACCES:
        return "ports below 1024 need a privilege: use another port, or systemd's socket"
    return "name an address of this machine in interface="


def _examine_path(subject: str, path: str) -> Finding:
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        return error(subject, f"there is no directory {directory}", f"mkdir -p {directory}")
    if not os.access(directory, os.W_OK | os.X_OK):
        return error(
            subject, f"{directory} cannot be written", "use a directory of the relay's user"
        )
    with socket.socket(socket.AF_UNIX) as trial:
        trial.setblocking(False)
        try:
            trial.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        except BlockingIOError:
            return _path_in_use(subject)
        except OSError as fault:
            return error(
                subject, f"{path} is in the way: {fault.strerror or fault}", "use another path"
            )
        else:
            return _path_in_use(subject)
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        return error(subject, f"{path} is no socket", "use another path, or remove the file")
    return ok(subject, "the path is free")


def _path_in_use(subject: str) -> Finding:
    return error(
        subject, "another process listens there", "stop the other relay, or use another path"
    )


def _examine_exposure(config: AceBaseIPCServerConfig) -> Iterator[Finding]:
    """Yield what is open to more than this machine, with too little protection."""
    has_token = config.token is not None or config.token_file is not None
    for each in config.parsed_endpoints:
        if each.kind not in _TCP or each.is_inherited:
            continue
        if is_loopback_ip(each.arguments.get("interface", "")):
            continue
        if not each.is_secure and not each.wrappers:
            yield warning(
                each.redacted,
                "it is open to the network without TLS",
                "use ssl: or pfx:, or interface=127.0.0.1 behind a proxy",
            )
        if not has_token:
            yield warning(
                each.redacted,
                "it is open to the network without a token",
                "acebase-ipc token new --file FILE, and --token-file FILE",
            )


def _examine_state_dir(path: str | None) -> Iterator[Finding]:
    if path is None:
        return
    subject = "--state-dir"
    place = path if os.path.exists(path) else os.path.dirname(path)
    if not os.path.isdir(place):
        yield error(subject, f"there is no directory {place}", f"mkdir -p {place}")
    elif not os.access(place, os.W_OK | os.X_OK):
        yield error(subject, f"{place} cannot be written", "use a directory of the relay's user")
    elif place == path and _is_locked(path):
        yield error(subject, "another relay uses it", "stop that one, or use another directory")
    else:
        yield ok(subject, "it can be written")


def _is_locked(directory: str) -> bool:
    """Return whether a relay uses the state directory."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(opened)
    return False


def _examine_open_files(connections: int, is_lowered: bool) -> Iterator[Finding]:
    """Yield whether the process may open as many files as *connections* need.

    :param is_lowered: whether the number of connections is what the limit of files allows.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = (Limits().max_connections if is_lowered else connections) + OTHER_FILES
    raised = f"raise the limit (ulimit -n {needed}, systemd's LimitNOFILE={needed})"
    if is_lowered:
        yield warning(
            "open files",
            f"the process may open {hard:,} files: --max-connections is {connections:,}",
            f"{raised}, or set --max-connections",
        )
    elif hard != resource.RLIM_INFINITY and hard < needed:
        yield warning(
            "open files",
            f"the process may open {hard:,} files, --max-connections {connections:,} needs"
            f" {needed:,}",
            f"{raised}, or lower --max-connections",
        )
    else:
        yield ok("open files", f"the process may open enough for {connections:,} connections")
