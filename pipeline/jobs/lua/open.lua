-- KEYS: head, jobs, target, named. ARGV: id, record, Unix time of creation, and the packed names of the
-- images if the submitter gave any. Returns the job that has the target, or 0 if the id is taken.
local record = redis.call('HGET', KEYS[1], 'job')
if record then return record == ARGV[2] and ARGV[1] or 0 end
local other = claim_target(KEYS[3], ARGV[1], KEYS[1])
if other then return other end
if ARGV[4] then redis.call('SET', KEYS[4], ARGV[4]) end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], 'job', ARGV[2], 'created', ARGV[3], 'state', 'listing')
redis.call('HSET', KEYS[1], 'size', 0, 'cursor', 0)
return ARGV[1]
