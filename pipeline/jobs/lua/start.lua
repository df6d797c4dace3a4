-- KEYS: head, named, totals, running jobs. ARGV: token, id.
local state, refused = fenced(KEYS[1], ARGV[1])
if refused then return refused end
if state == 'cancelled' then return -4 end
if state == 'listing' then
  begin_totals(KEYS[3])
  enter_running(KEYS[4], ARGV[2], KEYS[1])
  redis.call('HINCRBY', KEYS[3], 'skipped', redis.call('HGET', KEYS[1], 'skipped') or 0)
  redis.call('HSET', KEYS[1], 'state', 'running', 'started', now())
  redis.call('UNLINK', KEYS[2])
  finish_if_complete(KEYS[1])
end
return 1
