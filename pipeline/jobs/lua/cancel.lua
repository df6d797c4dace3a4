-- KEYS: head.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return -1 end
if state == 'finished' then return -4 end
if state ~= 'cancelled' then
  redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished', now())
end
return 1
