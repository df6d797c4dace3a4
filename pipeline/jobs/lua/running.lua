-- KEYS: jobs. ARGV: prefix of every head's key. Returns the running jobs, the oldest first.
local running = {}
for _, job in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if redis.pcall('HGET', ARGV[1] .. job, 'state') == 'running' then running[#running + 1] = job end
end
return running
