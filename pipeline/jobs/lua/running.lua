-- KEYS: running jobs. ARGV: prefix of every head's key. Returns the running jobs, the oldest first, and
-- drops the others from the index.
local running = {}
for _, job in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if redis.pcall('HGET', ARGV[1] .. job, 'state') == 'running' then
    running[#running + 1] = job
  else
    redis.call('ZREM', KEYS[1], job)
  end
end
return running
