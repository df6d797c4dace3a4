-- KEYS: head, running, and the leases of the processes that may lead the job. Returns the head's fields,
-- the number of items in flight, the time, and the number of leases held.
local held = redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5])
return {redis.call('HGETALL', KEYS[1]), redis.call('HLEN', KEYS[2]), now(), held}
