-- KEYS: head. ARGV: token. Returns the cursor.

-- The time between the last outcome and a new leader does not count as the job's running time.
local function take_over(head, fence)
  if tonumber(ARGV[1]) <= tonumber(fence or 0) then return end
  local times = redis.call('HMGET', head, 'started', 'settled')
  if not (times[1] and times[2]) then return end
  redis.call('HINCRBYFLOAT', head, 'spent', math.max(tonumber(times[2]) - tonumber(times[1]), 0))
  redis.call('HSET', head, 'started', now())
end

local fence = redis.call('HGET', KEYS[1], 'fence')
local state, refused = fenced(KEYS[1], ARGV[1])
if refused then return refused end
if state == 'running' then take_over(KEYS[1], fence) end
return tonumber(redis.call('HGET', KEYS[1], 'cursor'))
