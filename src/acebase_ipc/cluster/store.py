"""What a relay asks of Redis, as the arguments of one script, and what the answers mean.

Redis runs the script as a whole, and nothing else meanwhile. No message of a peer passes through
Redis.

It keeps three hashes: ``state`` has the token, the id of the run that has made it, whether it is
ripe, and the last epoch; ``relays`` has the counter of each relay and what that tells of itself;
``homes`` has the epoch and the relay of each database. A database has a list with the records of
its journal, which is deleted when its home ends cleanly; ``journals`` has their names.
"""

from __future__ import annotations

from typing import Any, Final

from acebase_ipc.cluster.leases import Command, Home, Record, Reply, Status
from acebase_ipc.errors import IPCError

DEFAULT_PREFIX: Final = "acebase-ipc"

KEYS: Final = ("state", "relays", "homes", "journals")

SCRIPT: Final = """\
local state, relays, homes, journals = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local verb, id = ARGV[1], ARGV[2]

-- Another run of Redis, or one that was told FLUSHALL, has perhaps forgotten what it was told.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if redis.call('HGET', state, 'run') ~= run then
  local time = redis.call('TIME')
  local now = string.format('%d%06d', time[1], time[2])
  local epoch = math.max(tonumber(redis.call('HGET', state, 'epoch') or 0), math.floor(now / 1000))
  for _, database in ipairs(redis.call('SMEMBERS', journals)) do
    redis.call('DEL', journals .. ':' .. database)
  end
  redis.call('DEL', relays, homes, journals)
  redis.call('HSET', state, 'run', run, 'token', run .. '-' .. now, 'ripe', 0,
             'epoch', string.format('%d', epoch))
end
local token = redis.call('HGET', state, 'token')
local ripe = redis.call('HGET', state, 'ripe')

local function rise(known)
  local epoch = math.max(tonumber(redis.call('HGET', state, 'epoch')), tonumber(known))
  redis.call('HSET', state, 'epoch', string.format('%d', epoch))
  return epoch
end

local function home(database)
  local text = redis.call('HGET', homes, database)
  if not text then return nil end
  local epoch, relay = string.match(text, '(%d+) (.+)')
  return tonumber(epoch), relay
end

local function settle(database, epoch, relay)
  redis.call('HSET', homes, database, string.format('%d %s', epoch, relay))
  return {string.format('%d', epoch), relay}
end

local function drop_journal(database)
  redis.call('DEL', journals .. ':' .. database)
  redis.call('SREM', journals, database)
end

local function forget(relay, ends_cleanly)
  redis.call('HDEL', relays, relay)
  local all = redis.call('HGETALL', homes)
  for i = 1, #all, 2 do
    if string.match(all[i + 1], '%d+ (.+)') == relay then
      redis.call('HDEL', homes, all[i])
      if ends_cleanly then drop_journal(all[i]) end
    end
  end
end

local status, all, found, refused, journal = 'done', {}, {}, {}, {}
local known = redis.call('HGET', relays, id)
if verb == 'join' then
  rise(ARGV[5])
  redis.call('HSET', relays, id, ARGV[3] .. ' ' .. ARGV[4])
  for i = 6, #ARGV, 2 do
    local epoch, relay = home(ARGV[i])
    local own = tonumber(ARGV[i + 1])
    if ripe == '0' and (not epoch or epoch < own) then
      settle(ARGV[i], own, id)
    elseif relay ~= id or epoch ~= own then
      refused[#refused + 1] = ARGV[i]
    end
  end
elseif verb == 'leave' then
  forget(id, true)
elseif not known then
  status = 'gone'
elseif verb == 'renew' then
  redis.call('HSET', relays, id, ARGV[3] .. ' ' .. ARGV[4])
elseif verb == 'bury' then
  local text = redis.call('HGET', relays, ARGV[3])
  if text and string.match(text, '%d+') == ARGV[4] then forget(ARGV[3], false) end
elseif verb == 'ripen' then
  if ARGV[3] == token then
    redis.call('HSET', state, 'ripe', 1)
    ripe = '1'
  end
elseif verb == 'find' then
  local epoch, relay = home(ARGV[3])
  if epoch then found = {string.format('%d', epoch), relay} end
elseif verb == 'claim' then
  local epoch, relay = home(ARGV[3])
  if epoch and relay ~= id and redis.call('HEXISTS', relays, relay) == 1 then
    found = {string.format('%d', epoch), relay}
  elseif ripe == '0' then
    status = 'unripe'
  else
    epoch = rise(ARGV[4]) + 1
    rise(epoch)
    found = settle(ARGV[3], epoch, id)
    journal = redis.call('LRANGE', journals .. ':' .. ARGV[3], 0, -1)
  end
elseif verb == 'note' then
  local epoch, relay = home(ARGV[3])
  if relay == id and epoch == tonumber(ARGV[4]) then
    found = {ARGV[4], id}
    if ARGV[5] == '1' then drop_journal(ARGV[3]) end
    redis.call('SADD', journals, ARGV[3])
    for i = 6, #ARGV do redis.call('RPUSH', journals .. ':' .. ARGV[3], ARGV[i]) end
  end
elseif verb == 'release' or verb == 'give' then
  local epoch, relay = home(ARGV[3])
  if relay == id and epoch == tonumber(ARGV[4]) then
    drop_journal(ARGV[3])
    if verb == 'release' then
      redis.call('HDEL', homes, ARGV[3])
    elseif redis.call('HEXISTS', relays, ARGV[5]) == 1 then
      epoch = rise(epoch) + 1
      rise(epoch)
      found = settle(ARGV[3], epoch, ARGV[5])
    end
  end
end
if verb == 'join' or verb == 'renew' or verb == 'watch' then all = redis.call('HGETALL', relays) end
return {status, token, ripe, all, found, refused, journal}
"""


class StoreFailed(IPCError):
    """Redis has not answered, or with an error; the text says why in one line."""


def keys(prefix: str) -> list[str]:
    """Return the names of the script's keys, which a Redis Cluster keeps in one place."""
    return [f"{{{prefix}}}:{each}" for each in KEYS]


def arguments(command: Command) -> list[str | bytes]:
    """Return the arguments of the script for *command*."""
    rest = (each if isinstance(each, bytes) else str(each) for each in command.arguments)
    return [command.verb.value, command.relay, *rest]


def parse_reply(answer: Any) -> Reply:
    """Return what the script has answered, with texts as bytes.

    :raises StoreFailed: if that is no answer of it.
    """
    try:
        status, token, ripe, records, home, refused, journal = answer
        pairs = [each.decode() for each in records]
        return Reply(
            Status(status.decode()),
            token.decode(),
            ripe == b"1",
            dict(zip(pairs[::2], map(_record, pairs[1::2]), strict=True)) or None,
            Home(home[1].decode(), int(home[0])) if home else None,
            tuple(each.decode() for each in refused),
            tuple(journal),
        )
    except (AttributeError, IndexError, TypeError, ValueError):
        raise StoreFailed("the answer is none of the cluster's script") from None


def _record(text: str) -> Record:
    counter, _, about = text.partition(" ")
    return Record(int(counter), about)
