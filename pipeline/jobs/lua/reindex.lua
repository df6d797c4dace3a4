-- KEYS: jobs, running jobs. ARGV: prefix of every head's key, first and last position. Enters the running ones
-- of these jobs into the index, which older versions do not keep. Returns the number of jobs looked at.
local jobs = redis.call('ZRANGE', KEYS[1], ARGV[2], ARGV[3], 'WITHSCORES')
for i = 1, #jobs, 2 do
  if redis.pcall('HGET', ARGV[1] .. jobs[i], 'state') == 'running' then
    redis.call('ZADD', KEYS[2], jobs[i + 1], jobs[i])
  end
end
return #jobs / 2
