-- KEYS: head, target, failed, errors, claimed, repeats. ARGV: token, id.
-- Returns the job that has the target.
local state, refused = fenced(KEYS[1], ARGV[1])
if refused then return refused end
if redis.call('HGET', KEYS[1], 'retried') == ARGV[1] then return ARGV[2] end
if state ~= 'finished' then return -4 end
local indices = redis.call('HKEYS', KEYS[4])
if #indices == 0 then return ARGV[2] end
local other = claim_target(KEYS[2], ARGV[2], KEYS[1])
if other then return other end
for _, index in ipairs(indices) do
  redis.call('SETBIT', KEYS[3], index, 0)
  redis.call('SETBIT', KEYS[5], index, 0)
  redis.call('HDEL', KEYS[6], index)
end
redis.call('UNLINK', KEYS[4])
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(name, 1, 6) == 'error:' then redis.call('HDEL', KEYS[1], name) end
end
redis.call('HSET', KEYS[1], 'failed', 0, 'retried', ARGV[1])
reopen(KEYS[1], 'running')
return ARGV[2]
