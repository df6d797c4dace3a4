-- KEYS: head, done, failed, running, errors, flags, totals, fingerprints, scores. ARGV: index; when the job was
-- created that the item was claimed from, or an empty string; fingerprint of the cutout, if it has one, or of
-- each output, zeros where none was written; code and error of a failure, else two empty strings; as JSON the
-- names of the outputs, and those of the failed ones; byte of a score, if there is one; bits and names of a flagged
-- cutout's flags.
local function is_set(fingerprint) return string.find(fingerprint, '[^%z]') end

local index, refused = item_index(KEYS[1], ARGV[1])
if refused then return refused end
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], 'created') ~= ARGV[2] then return -1 end
local outputs = cjson.decode(ARGV[6])
local written = {}
for first = 0, #ARGV[3] - 1, 8 do
  local part, at = string.sub(ARGV[3], first + 1, first + 8), #ARGV[3] * index + first
  if is_set(part) then
    -- Before a retry of the job it was counted.
    if not is_set(redis.call('GETRANGE', KEYS[8], at, at + 7)) then written[#written + 1] = outputs[first / 8 + 1] end
    redis.call('SETRANGE', KEYS[8], at, part)
  end
end
redis.call('HDEL', KEYS[4], ARGV[1])
if is_settled(KEYS[2], KEYS[3], index) then return 0 end
begin_totals(KEYS[7])
redis.call('HSET', KEYS[1], 'settled', now())
local function count(name)
  redis.call('HINCRBY', KEYS[1], name, 1)
  redis.call('HINCRBY', KEYS[7], name, 1)
end
for _, name in ipairs(written) do redis.call('HINCRBY', KEYS[1], 'output:' .. name, 1) end
for _, name in ipairs(cjson.decode(ARGV[7])) do redis.call('HINCRBY', KEYS[1], 'unwritten:' .. name, 1) end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[5], ARGV[1], ARGV[5])
  redis.call('SETBIT', KEYS[3], index, 1)
  count('failed')
  count('error:' .. ARGV[4])
else
  redis.call('SETRANGE', KEYS[9], index, ARGV[8])
  if ARGV[9] then redis.call('HSET', KEYS[6], ARGV[1], ARGV[9]) end
  redis.call('SETBIT', KEYS[2], index, 1)
  unpause(KEYS[1])
  count('done')
  if ARGV[9] then count('flagged') end
  for i = 10, #ARGV do count('flag:' .. ARGV[i]) end
end
finish_if_complete(KEYS[1])
return 1
