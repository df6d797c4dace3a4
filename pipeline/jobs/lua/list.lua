-- KEYS: head, manifest. ARGV: token.
local state, refused = fenced(KEYS[1], ARGV[1])
if refused then return refused end
if state ~= 'listing' then return -4 end
redis.call('UNLINK', KEYS[2])
redis.call('HSET', KEYS[1], 'size', 0)
redis.call('HDEL', KEYS[1], 'skipped')
return 1
