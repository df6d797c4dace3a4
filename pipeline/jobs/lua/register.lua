-- KEYS: open jobs, jobs of the owner, served. ARGV: job, owner/job, Unix time of creation, maximum of open
-- jobs. Returns the number of open jobs if the maximum was reached before, else 0.
local count = redis.call('SCARD', KEYS[1])
if count >= tonumber(ARGV[4]) and redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then return count end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2])
redis.call('SADD', KEYS[1], ARGV[1])
return 0
