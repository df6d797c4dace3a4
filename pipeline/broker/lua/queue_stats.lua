-- KEYS: queue, unacknowledged messages, their index. Returns the number of messages waiting and
-- unacknowledged, the message that is delivered next, and the unacknowledged one delivered first.
local first = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
return {redis.call('LLEN', KEYS[1]), redis.call('HLEN', KEYS[2]), redis.call('LINDEX', KEYS[1], -1),
        first and redis.call('HGET', KEYS[2], first)}
