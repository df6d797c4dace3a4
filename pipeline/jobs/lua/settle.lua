-- KEYS: head, done, failed, running, errors, flags, totals, fingerprints. ARGV: index; when the job was
-- created that the item was claimed from, or an empty string; fingerprint of the cutout, if it has one; code
-- and error of a failure, else two empty strings; bits and names of a flagged cutout's flags.
local index, refused = item_index(KEYS[1], ARGV[1])
if refused then return refused end
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], 'created') ~= ARGV[2] then return -1 end
redis.call('SETRANGE', KEYS[8], #ARGV[3] * index, ARGV[3])
redis.call('HDEL', KEYS[4], ARGV[1])
if is_settled(KEYS[2], KEYS[3], index) then return 0 end
begin_totals(KEYS[7])
redis.call('HSET', KEYS[1], 'settled', now())
local function count(name)
  redis.call('HINCRBY', KEYS[1], name, 1)
  redis.call('HINCRBY', KEYS[7], name, 1)
end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[5], ARGV[1], ARGV[5])
  redis.call('SETBIT', KEYS[3], index, 1)
  count('failed')
  count('error:' .. ARGV[4])
else
  if ARGV[6] then redis.call('HSET', KEYS[6], ARGV[1], ARGV[6]) end
  redis.call('SETBIT', KEYS[2], index, 1)
  unpause(KEYS[1])
  count('done')
  if ARGV[6] then count('flagged') end
  for i = 7, #ARGV do count('flag:' .. ARGV[i]) end
end
finish_if_complete(KEYS[1])
return 1
