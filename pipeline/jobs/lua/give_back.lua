-- KEYS: head, claimed, running, repeats. ARGV: index; the claim, as another one stays as it is; if the item was
-- refused as any would be, the reason, and the number of refusals in a row that pause the job. Returns 2 if it
-- is paused then.
if not is_held_by(KEYS[3], ARGV[1], ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[3], ARGV[1])
if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 0 then
  redis.call('SETBIT', KEYS[2], ARGV[1], 0)
else
  redis.call('HINCRBY', KEYS[4], ARGV[1], -1)
end
if not ARGV[3] then return 1 end
if redis.call('HGET', KEYS[1], 'refusal') ~= ARGV[3] then
  redis.call('HSET', KEYS[1], 'refusal', ARGV[3], 'refusals', 0, 'refused', now())
end
redis.call('HDEL', KEYS[1], 'probe')
if redis.call('HINCRBY', KEYS[1], 'refusals', 1) >= tonumber(ARGV[4]) then
  redis.call('HSET', KEYS[1], 'paused', 1)
end
return 1 + redis.call('HEXISTS', KEYS[1], 'paused')
