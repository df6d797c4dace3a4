"""The ledger's Lua scripts: each change of the books happens at once or not at all.

Each one may be sent twice, because a connection may break between a change and its answer: the
second time it changes nothing. Times are the server's, so that one clock keeps the books. What can
fail, a key of a wrong type, comes before what changes the counters.
"""

from __future__ import annotations

REFUSED = 0
UNKNOWN_JOB = -1
NO_SUCH_ITEM = -2
SUPERSEDED = -3
WRONG_STATE = -4

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

# What observers count, beyond the life of a job: it only grows. Called before anything is changed.
_COUNT = """
local function counting(totals)
  redis.call('HSETNX', totals, 'since', now())
end
"""

# A new leader of a job that runs: the seconds since the last outcome, when none led it, do not count.
_TAKE_OVER = """
local function take_over(head, fence)
  if tonumber(ARGV[1]) <= tonumber(fence or 0) then return end
  local times = redis.call('HMGET', head, 'started', 'settled')
  if not (times[1] and times[2]) then return end
  redis.call('HINCRBYFLOAT', head, 'spent', math.max(tonumber(times[2]) - tonumber(times[1]), 0))
  redis.call('HSET', head, 'started', now())
end
"""

# Of the submitting side: ARGV[1] is a fencing token, and older ones than the last are refused.
_LEAD = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return -1 end
if tonumber(ARGV[1]) < tonumber(redis.call('HGET', KEYS[1], 'fence') or 0) then return -3 end
redis.call('HSET', KEYS[1], 'fence', ARGV[1])
"""

# A job taken up again works on: the seconds in between are not counted.
_REOPEN = """
local function reopen(head, state)
  local times = redis.call('HMGET', head, 'finished', 'started')
  if times[1] and times[2] then
    redis.call('HINCRBYFLOAT', head, 'spent', tonumber(times[1]) - tonumber(times[2]))
    redis.call('HSET', head, 'started', now())
  end
  redis.call('HDEL', head, 'finished')
  redis.call('HSET', head, 'state', state, 'cursor', 0)
end
"""

# Of two jobs that do the same, one is open. Returns the other one if it is.
_PLACE = """
local function take(place, job, head)
  local holder = redis.call('GET', place)
  if holder and holder ~= job then
    local state = redis.call('HGET', string.sub(head, 1, #head - #job) .. holder, 'state')
    if state == 'listing' or state == 'running' then return holder end
  end
  redis.call('SET', place, job)
end
"""

# KEYS: head, jobs, place, named. ARGV: id, record, Unix time of creation, and the names of the
# images if the submitter gave any. Returns the job that holds the place, or 0 if the id is taken.
OPEN = (
    _PLACE
    + """
local record = redis.call('HGET', KEYS[1], 'job')
if record then return record == ARGV[2] and ARGV[1] or 0 end
local other = take(KEYS[3], ARGV[1], KEYS[1])
if other then return other end
if ARGV[4] then redis.call('SET', KEYS[4], ARGV[4]) end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], 'job', ARGV[2], 'created', ARGV[3], 'state', 'listing')
redis.call('HSET', KEYS[1], 'size', 0, 'cursor', 0)
return ARGV[1]
"""
)

# KEYS: head, manifest. ARGV: token.
LIST = (
    _LEAD
    + """
if state ~= 'listing' then return -4 end
redis.call('UNLINK', KEYS[2])
redis.call('HSET', KEYS[1], 'size', 0)
redis.call('HDEL', KEYS[1], 'skipped')
return 1
"""
)

# KEYS: head, manifest. ARGV: token, the size that the caller knows, the size to be, then number and
# content of each block.
APPEND = (
    _LEAD
    + """
local size = tonumber(redis.call('HGET', KEYS[1], 'size'))
if state ~= 'listing' then return -4 end
if size == tonumber(ARGV[3]) then return size end
if size ~= tonumber(ARGV[2]) then return -2 end
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'size', ARGV[3])
return tonumber(ARGV[3])
"""
)

# KEYS: head. ARGV: token, field, value.
WRITE = (
    _LEAD
    + """
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
"""
)

# KEYS: head, named, totals. ARGV: token.
START = (
    _NOW
    + _CLOSE
    + _COUNT
    + _LEAD
    + """
if state == 'cancelled' then return -4 end
if state == 'listing' then
  counting(KEYS[3])
  redis.call('HINCRBY', KEYS[3], 'skipped', redis.call('HGET', KEYS[1], 'skipped') or 0)
  redis.call('HSET', KEYS[1], 'state', 'running', 'started', now())
  redis.call('UNLINK', KEYS[2])
  close_if_complete(KEYS[1])
end
return 1
"""
)

# KEYS: head. ARGV: token. Returns the cursor.
LEAD = (
    _NOW
    + _TAKE_OVER
    + """
local fence = redis.call('HGET', KEYS[1], 'fence')
"""
    + _LEAD
    + """
if state == 'running' then take_over(KEYS[1], fence) end
return tonumber(redis.call('HGET', KEYS[1], 'cursor'))
"""
)

# KEYS: head.
CANCEL = (
    _NOW
    + """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return -1 end
if state == 'finished' then return -4 end
if state ~= 'cancelled' then
  redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished', now())
end
return 1
"""
)

# KEYS: head, place. ARGV: token, id. A job that was never listed to its end is to be listed again.
# Returns the job that holds the place.
RESUME = (
    _NOW
    + _CLOSE
    + _LEAD
    + _PLACE
    + _REOPEN
    + """
if state == 'cancelled' then
  local other = take(KEYS[2], ARGV[2], KEYS[1])
  if other then return other end
  reopen(KEYS[1], redis.call('HEXISTS', KEYS[1], 'started') == 1 and 'running' or 'listing')
  close_if_complete(KEYS[1])
end
return ARGV[2]
"""
)

# KEYS: head, place, failed, errors, claimed, repeats. ARGV: token, id.
# Returns the job that holds the place.
RETRY = (
    _NOW
    + _LEAD
    + _PLACE
    + _REOPEN
    + """
if redis.call('HGET', KEYS[1], 'retried') == ARGV[1] then return ARGV[2] end
if state ~= 'finished' then return -4 end
local indices = redis.call('HKEYS', KEYS[4])
if #indices == 0 then return ARGV[2] end
local other = take(KEYS[2], ARGV[2], KEYS[1])
if other then return other end
for _, index in ipairs(indices) do
  redis.call('SETBIT', KEYS[3], index, 0)
  redis.call('SETBIT', KEYS[5], index, 0)
  redis.call('HDEL', KEYS[6], index)
end
redis.call('UNLINK', KEYS[4])
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, 1, 6) == 'error:' then redis.call('HDEL', KEYS[1], name) end
end
redis.call('HSET', KEYS[1], 'failed', 0, 'retried', ARGV[1])
reopen(KEYS[1], 'running')
return ARGV[2]
"""
)

# KEYS: jobs, place, head and all others of the job. ARGV: id. What is damaged can be forgotten too.
FORGET = """
local state = redis.pcall('HGET', KEYS[3], 'state')
if state == 'listing' or state == 'running' then return -4 end
if redis.pcall('GET', KEYS[2]) == ARGV[1] then redis.call('UNLINK', KEYS[2]) end
for i = 3, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
"""

# KEYS: head, done, failed, claimed, running, repeats. ARGV: index, who claims, never the same twice.
# A claim is kept with a mark before it: `!` if the item was in flight already, else `.`.
# Returns which attempt this is, that mark, and when the job was created.
CLAIM = (
    _FIND
    + _SETTLED
    + """
if redis.call('HGET', KEYS[1], 'state') ~= 'running' or settled(KEYS[2], KEYS[3]) then return 0 end
local claim = redis.call('HGET', KEYS[5], ARGV[1])
local attempt = 1
if claim and string.sub(claim, 2) == ARGV[2] then
  attempt = 1 + tonumber(redis.call('HGET', KEYS[6], ARGV[1]) or 0)
else
  claim = (claim and '!' or '.') .. ARGV[2]
  redis.call('HSET', KEYS[5], ARGV[1], claim)
  if redis.call('SETBIT', KEYS[4], index, 1) == 1 then
    attempt = 1 + redis.call('HINCRBY', KEYS[6], ARGV[1], 1)
  end
end
return {attempt, string.sub(claim, 1, 1), redis.call('HGET', KEYS[1], 'created')}
"""
)

# KEYS: head, claimed, running, repeats. ARGV: index.
GIVE_BACK = (
    _FIND
    + """
if redis.call('HDEL', KEYS[3], ARGV[1]) == 0 then return 0 end
if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 0 then
  redis.call('SETBIT', KEYS[2], index, 0)
elseif redis.call('HINCRBY', KEYS[4], ARGV[1], -1) == 0 then
  redis.call('HDEL', KEYS[4], ARGV[1])
end
return 1
"""
)

# KEYS: head, done, failed, running, errors, flags, totals. ARGV: index, for a failure its code and its
# error, else nothing twice; for a flagged cutout its bits and the names of its flags.
SETTLE = (
    _NOW
    + _CLOSE
    + _COUNT
    + _FIND
    + _SETTLED
    + """
redis.call('HDEL', KEYS[4], ARGV[1])
if settled(KEYS[2], KEYS[3]) then return 0 end
counting(KEYS[7])
redis.call('HSET', KEYS[1], 'settled', now())
local function count(name)
  redis.call('HINCRBY', KEYS[1], name, 1)
  redis.call('HINCRBY', KEYS[7], name, 1)
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[5], ARGV[1], ARGV[3])
  redis.call('SETBIT', KEYS[3], index, 1)
  count('failed')
  count('error:' .. ARGV[2])
else
  if ARGV[4] then redis.call('HSET', KEYS[6], ARGV[1], ARGV[4]) end
  redis.call('SETBIT', KEYS[2], index, 1)
  count('done')
  if ARGV[4] then count('flagged') end
  for i = 5, #ARGV do count('flag:' .. ARGV[i]) end
end
close_if_complete(KEYS[1])
return 1
"""
)

# KEYS: head, running, and the leases of those who may lead the job. Returns the head's fields, how many
# items are in flight, the time, and how many of the leases are held.
SUMMARY = (
    _NOW
    + """
local held = redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5])
return {redis.call('HGETALL', KEYS[1]), redis.call('HLEN', KEYS[2]), now(), held}
"""
)

# KEYS: lease, fence. ARGV: holder, milliseconds until it is free again unless renewed.
# KEYS: jobs. ARGV: what every head's key begins with. Returns the jobs that run, the oldest first.
RUNNING = """
local found = {}
for _, job in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if redis.pcall('HGET', ARGV[1] .. job, 'state') == 'running' then found[#found + 1] = job end
end
return found
"""

# KEYS: served. ARGV: what every head's key begins with. Returns owner/job, its state and its Unix
# time of creation, of those that are not being worked on: the state is empty where there is no job.
SERVED = """
local found = {}
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  local job = string.match(members[i], '[^/]*$')
  local state = redis.pcall('HGET', ARGV[1] .. job, 'state')
  if state ~= 'running' then
    found[#found + 1] = {members[i], type(state) == 'string' and state or '', members[i + 1]}
  end
end
return found
"""
