-- KEYS: running, claimed, repeats. ARGV: index, the claim. Another claim stays as it is.
if not is_held_by(KEYS[1], ARGV[1], ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then
  redis.call('SETBIT', KEYS[2], ARGV[1], 0)
else
  redis.call('HINCRBY', KEYS[3], ARGV[1], -1)
end
return 1
