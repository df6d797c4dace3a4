-- KEYS: head, manifest. ARGV: token, the size that the caller knows, the new size, then number and
-- content of each block. Returns the new size.
local state, refused = fenced(KEYS[1], ARGV[1])
if refused then return refused end
local size = tonumber(redis.call('HGET', KEYS[1], 'size'))
if state ~= 'listing' then return -4 end
if size == tonumber(ARGV[3]) then return size end
if size ~= tonumber(ARGV[2]) then return -2 end
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'size', ARGV[3])
return tonumber(ARGV[3])
