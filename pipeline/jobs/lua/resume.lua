-- KEYS: head, target. ARGV: token, id. A job whose listing never ended is listed again.
-- Returns the job that has the target.
local state, refused = fenced(KEYS[1], ARGV[1])
if refused then return refused end
if state == 'cancelled' then
  local other = claim_target(KEYS[2], ARGV[2], KEYS[1])
  if other then return other end
  reopen(KEYS[1], redis.call('HEXISTS', KEYS[1], 'started') == 1 and 'running' or 'listing')
  finish_if_complete(KEYS[1])
end
return ARGV[2]
