-- Functions shared by the scripts; the loader puts this file before each of them.

-- The server's time in seconds, so that one clock dates every change.
local function now()
  local time = redis.call('TIME')
  return time[1] .. '.' .. string.format('%06d', time[2])
end

-- Refuse fencing tokens older than the last one seen. Returns the job's state, or nil and a result code.
local function fenced(head, token)
  local state = redis.call('HGET', head, 'state')
  if not state then return nil, -1 end
  if tonumber(token) < tonumber(redis.call('HGET', head, 'fence') or 0) then return nil, -3 end
  redis.call('HSET', head, 'fence', token)
  return state
end

-- Returns the index as a number, or nil and a result code if the job or the item does not exist.
local function item_index(head, index)
  local size = redis.call('HGET', head, 'size')
  local number = tonumber(index)
  if not size then return nil, -1 end
  if number < 0 or number >= tonumber(size) then return nil, -2 end
  return number
end

local function is_settled(done, failed, index)
  return redis.call('GETBIT', done, index) == 1 or redis.call('GETBIT', failed, index) == 1
end

-- Whether the item's last claim, behind its mark, is `claim`: another worker may have taken it over.
local function is_held_by(running, index, claim)
  local held = redis.call('HGET', running, index)
  return held and string.sub(held, 2) == claim
end

local function finish_if_complete(head)
  local fields = redis.call('HMGET', head, 'state', 'size', 'done', 'failed')
  local settled = tonumber(fields[3] or 0) + tonumber(fields[4] or 0)
  if fields[1] == 'running' and settled == tonumber(fields[2]) then
    redis.call('HSET', head, 'state', 'finished', 'finished', now())
  end
end

-- Forget what refused the job's images. If it was paused, workers dropped its messages: it is fed anew.
local function unpause(head)
  if redis.call('HDEL', head, 'paused') == 1 then redis.call('HSET', head, 'cursor', 0) end
  redis.call('HDEL', head, 'refusal', 'refusals', 'refused', 'probe')
end

-- Claim the target for a job. Returns another open job that has it, if there is one.
local function claim_target(target, job, head)
  local holder = redis.call('GET', target)
  if holder and holder ~= job then
    local state = redis.call('HGET', string.sub(head, 1, #head - #job) .. holder, 'state')
    if state == 'listing' or state == 'running' then return holder end
  end
  redis.call('SET', target, job)
end

-- Enter a job that may run from now on into the index of running jobs. Others leave it as it is read.
local function enter_running(index, job, head)
  redis.call('ZADD', index, redis.call('HGET', head, 'created'), job)
end

-- Reopen a job. The seconds since it ended do not count as its running time.
local function reopen(head, state, index, job)
  enter_running(index, job, head)
  local times = redis.call('HMGET', head, 'finished', 'started')
  if times[1] and times[2] then
    redis.call('HINCRBYFLOAT', head, 'spent', tonumber(times[1]) - tonumber(times[2]))
    redis.call('HSET', head, 'started', now())
  end
  unpause(head)
  redis.call('HDEL', head, 'finished')
  redis.call('HSET', head, 'state', state, 'cursor', 0)
end

-- Date the first outcome that the cluster's totals count. Called before any change.
local function begin_totals(totals)
  redis.call('HSETNX', totals, 'since', now())
end
