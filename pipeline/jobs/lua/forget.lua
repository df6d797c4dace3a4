-- KEYS: jobs, running jobs, target, head and all others of the job. ARGV: id. Damaged keys can be forgotten too.
local state = redis.pcall('HGET', KEYS[4], 'state')
if state == 'listing' or state == 'running' then return -4 end
if redis.pcall('GET', KEYS[3]) == ARGV[1] then redis.call('UNLINK', KEYS[3]) end
for i = 4, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
