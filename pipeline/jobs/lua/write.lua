-- KEYS: head. ARGV: token, field, value.
local _, refused = fenced(KEYS[1], ARGV[1])
if refused then return refused end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return 1
