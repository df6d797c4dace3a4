"""The ledger's Lua scripts: each change of the books happens at once or not at all.

Each one may be sent twice, because a connection may break between a change and its answer: the
second time it changes nothing. Times are the server's, so that one clock keeps the books.
"""

from __future__ import annotations

REFUSED = 0
UNKNOWN_JOB = -1
NO_SUCH_ITEM = -2

_NOW = """
local function now()
  local time = redis.call('TIME')
  return time[1] .. '.' .. string.format('%06d', time[2])
end
"""

_CLOSE = """
local function close_if_complete(head)
  local books = redis.call('HMGET', head, 'state', 'size', 'done', 'failed')
  local ended = tonumber(books[3] or 0) + tonumber(books[4] or 0)
  if books[1] == 'running' and ended == tonumber(books[2]) then
    redis.call('HSET', head, 'state', 'finished', 'finished', now())
  end
end
"""

_FIND = """
local size = redis.call('HGET', KEYS[1], 'size')
local index = tonumber(ARGV[1])
if not size then return -1 end
if index < 0 or index >= tonumber(size) then return -2 end
"""

_SETTLED = """
local function settled(done, failed)
  return redis.call('GETBIT', done, index) == 1 or redis.call('GETBIT', failed, index) == 1
end
"""

# KEYS: head, jobs. ARGV: id, what was asked for, Unix time of creation.
OPEN = """
if redis.call('HSETNX', KEYS[1], 'job', ARGV[2]) == 0 then
  return redis.call('HGET', KEYS[1], 'job') == ARGV[2] and 1 or 0
end
redis.call('HSET', KEYS[1], 'state', 'listing', 'size', 0, 'cursor', 0)
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return 1
"""

# KEYS: head.
START = (
    _NOW
    + _CLOSE
    + """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return -1 end
if state == 'listing' then
  redis.call('HSET', KEYS[1], 'state', 'running', 'started', now())
  close_if_complete(KEYS[1])
end
return 1
"""
)

# KEYS: head, done, failed, claimed, running, repeats. ARGV: index, who claims, never the same twice.
# Returns which attempt this is.
CLAIM = (
    _FIND
    + _SETTLED
    + """
if settled(KEYS[2], KEYS[3]) or redis.call('HGET', KEYS[1], 'state') == 'cancelled' then
  return 0
end
if redis.call('HGET', KEYS[5], ARGV[1]) == ARGV[2] then
  return 1 + tonumber(redis.call('HGET', KEYS[6], ARGV[1]) or 0)
end
redis.call('HSET', KEYS[5], ARGV[1], ARGV[2])
if redis.call('SETBIT', KEYS[4], index, 1) == 0 then return 1 end
return 1 + redis.call('HINCRBY', KEYS[6], ARGV[1], 1)
"""
)

# KEYS: head, done, failed, running, errors. ARGV: index, and for a failure its code and its error.
SETTLE = (
    _NOW
    + _CLOSE
    + _FIND
    + _SETTLED
    + """
redis.call('HDEL', KEYS[4], ARGV[1])
if settled(KEYS[2], KEYS[3]) then return 0 end
if ARGV[2] then
  redis.call('SETBIT', KEYS[3], index, 1)
  redis.call('HSET', KEYS[5], ARGV[1], ARGV[3])
  redis.call('HINCRBY', KEYS[1], 'failed', 1)
  redis.call('HINCRBY', KEYS[1], 'error:' .. ARGV[2], 1)
else
  redis.call('SETBIT', KEYS[2], index, 1)
  redis.call('HINCRBY', KEYS[1], 'done', 1)
end
close_if_complete(KEYS[1])
return 1
"""
)

# KEYS: head, running. Returns the head's fields, how many items are in flight, and the time.
BOOKS = (
    _NOW
    + """
return {redis.call('HGETALL', KEYS[1]), redis.call('HLEN', KEYS[2]), now()}
"""
)
