-- KEYS: head, claimed, running, repeats. ARGV: index.
local index, refused = item_index(KEYS[1], ARGV[1])
if refused then return refused end
if redis.call('HDEL', KEYS[3], ARGV[1]) == 0 then return 0 end
if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 0 then
  redis.call('SETBIT', KEYS[2], index, 0)
elseif redis.call('HINCRBY', KEYS[4], ARGV[1], -1) == 0 then
  redis.call('HDEL', KEYS[4], ARGV[1])
end
return 1
