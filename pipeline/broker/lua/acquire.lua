-- KEYS: lease, counter of fencing tokens. ARGV: holder, milliseconds to live.
-- Returns the fencing token, or 0 if another holder has the lease.
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[1] then return 0 end
if not holder then
  redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', redis.call('INCR', KEYS[2]))
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return tonumber(redis.call('HGET', KEYS[1], 'token'))
