-- KEYS: jobs, totals. ARGV: prefix of the jobs' keys.
-- Returns the totals and the statistics, each as flat pairs: the number of jobs by state and, over
-- the running jobs, those that are paused, the images unsettled and in flight, the seconds of the oldest job and the sum of
-- their images per second. Damaged jobs are left out.
local states = {listing = 0, running = 0, finished = 0, cancelled = 0}
local paused, unsettled, in_flight, oldest, speed = 0, 0, 0, 0, 0
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
for _, job in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local head = redis.pcall(
    'HMGET', ARGV[1] .. job, 'state', 'size', 'done', 'failed', 'started', 'spent', 'paused')
  local state = head[1]
  if state and states[state] then states[state] = states[state] + 1 end
  if state == 'running' then
    if head[7] then paused = paused + 1 end
    local done = tonumber(head[3] or 0)
    unsettled = unsettled + tonumber(head[2] or 0) - done - tonumber(head[4] or 0)
    local running = redis.pcall('HLEN', ARGV[1] .. job .. ':running')
    in_flight = in_flight + (tonumber(running) or 0)
    local seconds = now - tonumber(head[5] or now)
    oldest = math.max(oldest, seconds)
    seconds = seconds + tonumber(head[6] or 0)
    if seconds > 0 then speed = speed + done / seconds end
  end
end
local stats = {'paused', paused, 'unsettled', unsettled, 'in_flight', in_flight}
for state, count in pairs(states) do
  stats[#stats + 1] = state
  stats[#stats + 1] = count
end
for name, value in pairs({oldest = oldest, images_per_second = speed}) do
  stats[#stats + 1] = name
  stats[#stats + 1] = string.format('%.6f', value)
end
return {redis.call('HGETALL', KEYS[2]), stats}
