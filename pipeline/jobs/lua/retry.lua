-- KEYS: head, target, failed, errors, claimed, running jobs. ARGV: token, id.
-- Bitmaps change whole, so that the time does not grow with the failures; the next claim of an item drops its
-- repeats. Returns the job that has the target.
local state, refused = fenced(KEYS[1], ARGV[1])
if refused then return refused end
if redis.call('HGET', KEYS[1], 'retried') == ARGV[1] then return ARGV[2] end
if state ~= 'finished' then return -4 end
if tonumber(redis.call('HGET', KEYS[1], 'failed') or 0) == 0 then return ARGV[2] end
local other = claim_target(KEYS[2], ARGV[2], KEYS[1])
if other then return other end
redis.call('BITOP', 'AND', KEYS[3], KEYS[3], KEYS[5])
redis.call('BITOP', 'XOR', KEYS[5], KEYS[5], KEYS[3])
redis.call('UNLINK', KEYS[3], KEYS[4])
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.find(name, '^error:') or string.find(name, '^unwritten:') then redis.call('HDEL', KEYS[1], name) end
end
redis.call('HSET', KEYS[1], 'failed', 0, 'retried', ARGV[1])
reopen(KEYS[1], 'running', KEYS[6], ARGV[2])
return ARGV[2]
