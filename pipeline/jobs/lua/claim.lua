-- KEYS: head, done, failed, claimed, running, repeats. ARGV: index, a claim that is unique.
-- The claim is stored behind a mark: `!` if the item was in flight already, else `.`.
-- Returns the attempt, the mark, and when the job was created; 0 if there is nothing to do.
local index, refused = item_index(KEYS[1], ARGV[1])
if refused then return refused end
local job = redis.call('HMGET', KEYS[1], 'state', 'paused', 'probe')
if job[1] ~= 'running' or (job[2] and job[3] ~= ARGV[1]) then return 0 end
if is_settled(KEYS[2], KEYS[3], index) then return 0 end
local claim = redis.call('HGET', KEYS[5], ARGV[1])
local attempt = 1
if claim and string.sub(claim, 2) == ARGV[2] then
  attempt = 1 + tonumber(redis.call('HGET', KEYS[6], ARGV[1]) or 0)
else
  claim = (claim and '!' or '.') .. ARGV[2]
  redis.call('HSET', KEYS[5], ARGV[1], claim)
  if redis.call('SETBIT', KEYS[4], index, 1) == 1 then
    attempt = 1 + redis.call('HINCRBY', KEYS[6], ARGV[1], 1)
  else
    redis.call('HDEL', KEYS[6], ARGV[1])  -- those before a retry of the job
  end
end
return {attempt, string.sub(claim, 1, 1), redis.call('HGET', KEYS[1], 'created')}
