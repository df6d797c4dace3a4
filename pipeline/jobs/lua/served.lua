-- KEYS: served. ARGV: prefix of every head's key. Returns owner/job, state and Unix time of each job of the
-- HTTP service that does not run.
local jobs = {}
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  local job = string.match(members[i], '[^/]*$')
  local state = redis.pcall('HGET', ARGV[1] .. job, 'state')
  if state ~= 'running' then
    jobs[#jobs + 1] = {members[i], type(state) == 'string' and state or '', members[i + 1]}
  end
end
return jobs
