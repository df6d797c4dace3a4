-- KEYS: queue, unacknowledged messages. Returns the number of messages; one script, so that a message
-- that moves between the two is counted.
return redis.call('LLEN', KEYS[1]) + redis.call('HLEN', KEYS[2])
