-- KEYS: heartbeats. Returns the fields and the remaining milliseconds of each.
local heartbeats = {}
for i, worker in ipairs(KEYS) do
  heartbeats[i] = {redis.call('HGETALL', worker), redis.call('PTTL', worker)}
end
return heartbeats
