"""What a running server takes over of a changed configuration, and what needs a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from twisted.logger import Logger

from acebase_ipc.relay.limits import describe_limits
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.options import OPTIONS, Group, Option

log = Logger()


def running_config(
    old: AceBaseIPCServerConfig, new: AceBaseIPCServerConfig
) -> AceBaseIPCServerConfig:
    """Return *old* with what can be reloaded of *new*.

    :raises ConfigError: if they cannot be used together.
    """
    limits = {
        name: getattr(new.limits, name) for name, each in describe_limits().items() if each.reloads
    }
    fields = {
        each.config_field: getattr(new, each.config_field)
        for each in OPTIONS
        if each.reloads and each.group not in (Group.LIMITS, Group.LOG)
    }
    if not (old.admin and new.admin):
        # An endpoint that a restart would close must not lose its tokens until then.
        fields["admin_token_file"] = old.admin_token_file
    return replace(old, limits=replace(old.limits, **limits), **fields)


def changes(old: AceBaseIPCServerConfig, new: AceBaseIPCServerConfig) -> Iterator[Option]:
    """Yield the options that differ, but for those that are not of the server."""
    for each in OPTIONS:
        if each.group is Group.LIMITS:
            before, after = old.effective_limits, new.effective_limits
            is_changed = getattr(before, each.name) != getattr(after, each.name)
        elif each.group in (Group.LOG, Group.PROCESS):
            continue
        else:
            is_changed = getattr(old, each.config_field) != getattr(new, each.config_field)
        if is_changed:
            yield each


def report_changes(
    old: AceBaseIPCServerConfig, running: AceBaseIPCServerConfig, new: AceBaseIPCServerConfig
) -> None:
    """Log which options have changed, and which would; no value, as it may be a secret.

    :param running: what was taken over of *new*.
    """
    reloaded = ", ".join(each.name for each in changes(old, running))
    others = ", ".join(each.name for each in changes(running, new))
    if reloaded:
        log.info("changed: {reloaded}", reloaded=reloaded)
    if others:
        log.warn("not changed, as it needs a restart: {others}", others=others)
