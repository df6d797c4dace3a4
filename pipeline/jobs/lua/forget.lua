-- KEYS: jobs, target, head and all others of the job. ARGV: id. Damaged keys can be forgotten too.
local state = redis.pcall('HGET', KEYS[3], 'state')
if state == 'listing' or state == 'running' then return -4 end
if redis.pcall('GET', KEYS[2]) == ARGV[1] then redis.call('UNLINK', KEYS[2]) end
for i = 3, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
