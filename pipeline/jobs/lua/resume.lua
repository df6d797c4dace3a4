-- KEYS: head, target, running jobs. ARGV: token, id. A job whose listing never ended is listed again.
-- Returns the job that has the target.
local state, refused = fenced(KEYS[1], ARGV[1])
if refused then return refused end
if state == 'cancelled' then
  local other = claim_target(KEYS[2], ARGV[2], KEYS[1])
  if other then return other end
  local was_listed = redis.call('HEXISTS', KEYS[1], 'started') == 1
  reopen(KEYS[1], was_listed and 'running' or 'listing', KEYS[3], ARGV[2])
  finish_if_complete(KEYS[1])
end
return ARGV[2]
