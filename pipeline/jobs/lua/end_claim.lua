-- KEYS: running. ARGV: index, worker. Ends a claim of this worker; those of others stay.
local claim = redis.call('HGET', KEYS[1], ARGV[1])
local owner = claim and string.sub(claim, 2, #ARGV[2] + 2)
if owner == ARGV[2] .. ' ' then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
